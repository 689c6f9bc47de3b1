"""Which known encoders can be used on this machine, without loading torch or asking a network.

Looked up are installed packages, the cache of the Hugging Face hub, and torch's own cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from huggingface_hub import constants

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bleepdb.encoders.known import KnownEncoder

Place = Literal["package", "hub cache", "torch cache", "nothing needed"]
DISTRIBUTIONS: Final = {"timm": "timm", "open_clip": "open_clip_torch"}
HUB_FILES: Final = (
    "model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)  # fmt: skip


@dataclass(frozen=True)
class Presence:
    """What of an encoder is here.

    Parameters
    ----------
    builder
        Distribution that builds the network, with its version; None where it is not installed.
    missing
        Package to install first, or None.
    place
        Where its weights were found, or None.
    path
        The file or folder found, or None.
    """

    builder: str | None
    missing: str | None
    place: Place | None
    path: Path | None

    @property
    def usable(self) -> bool:
        """Whether it runs here as it is (from torch's cache: with that file as --weights)."""
        return self.missing is None and self.place is not None


def presence(known: KnownEncoder) -> Presence:
    """Look up what of an encoder is here."""
    builder, missing = _builder(known)
    if known.library == "builtin":
        return Presence("bleepdb", None, "nothing needed", None)
    for place, found in _weights(known):
        return Presence(builder, missing, place, found)
    return Presence(builder, missing, None, None)


def _builder(known: KnownEncoder) -> tuple[str | None, str | None]:
    if known.needs is not None and find_spec(known.needs) is None:
        return None, known.needs
    name = DISTRIBUTIONS.get(known.library) or known.needs or known.library
    try:
        return f"{name} {version(name)}", None
    except PackageNotFoundError:
        return name, None


def _weights(known: KnownEncoder) -> Iterator[tuple[Place, Path]]:
    if known.access == "package":
        found = find_spec(str(known.needs))
        if found is not None and found.origin is not None:
            yield "package", Path(found.origin).parent
    for folder in _repositories(known):
        for file in known.files or HUB_FILES:
            for path in sorted(folder.glob(f"snapshots/*/{file}")):
                if path.is_file():
                    yield "hub cache", path
    yield from (("torch cache", path) for path in _torch_files(known))


def _repositories(known: KnownEncoder) -> list[Path]:
    """Folders of the hub's cache that hold its repository; the hub ignores case."""
    base = Path(constants.HF_HUB_CACHE)
    if known.repository is not None:
        wanted = "models--" + known.repository.replace("/", "--")
    else:
        wanted = "models--timm--" + known.spec.removeprefix("timm:")
    folders = base.iterdir() if base.is_dir() else iter(())
    # timm adds to a name the training that it stands for: resnet50 is fetched as resnet50.a1_in1k.
    return sorted(
        f
        for f in folders
        if f.name.lower() == wanted.lower()
        or (known.repository is None and f.name.startswith(f"{wanted}."))
    )


def _torch_files(known: KnownEncoder) -> list[Path]:
    home = os.environ.get("TORCH_HOME") or str(
        Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    )
    folder = Path(home).expanduser() / "hub" / "checkpoints"
    if not folder.is_dir():
        return []
    starts = (
        tuple(f"{known.architecture}{mark}" for mark in "-_.") if known.repository is None else ()
    )
    return sorted(
        f
        for f in folder.iterdir()
        if f.name in known.files or (starts and f.name.startswith(starts))
    )
