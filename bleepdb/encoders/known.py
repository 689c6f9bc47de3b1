"""Image encoders of pathology that are known by name: how each is built, fed and had.

The records stand in `bleepdb.encoders.known_table`. They carry facts over from the sources that
each names; what no source stated is None. Nothing here loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from bleepdb.encoders.naming import KINDS, joined_spec, split_spec
from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

Library = Literal["timm", "open_clip", "conch", "musk", "trident", "builtin"]
Access = Literal["open", "gated", "on request", "package"]
Layout = Literal["own", "open_clip", "vit", "dinov2", "clip"]


class Pixels(NamedTuple):
    """Pixel statistics, RGB in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class KnownEncoder:
    """One encoder.

    Parameters
    ----------
    name
        The short name that `--encoder` takes.
    spec
        ``timm:NAME``, ``open_clip:NAME[/PRETRAINED]``, ``open_clip:hf-hub:ORG/NAME`` or
        ``hf-hub:ORG/NAME``.
    about
        Architecture and training, in a few words.
    library
        What builds the network: timm, open_clip, or a package of its own.
    architecture
        Its name there, for a weights file without the hub; None where it is not confirmed.
    arguments
        What the constructor is given beyond its defaults; classes by name.
    pixels
        What it is fed with; None: what the library's own configuration says.
    input_px
        Edge of the tiles that it was trained on or is fed with.
    mpp
        Microns per pixel that it is paired with; None where not confirmed.
    width
        Values of its penultimate features.
    feature
        What those are.
    layout
        Under which names its tensors are stored: the library's own, open_clip's image tower, or
        those of the transformers library (`bleepdb.encoders.renaming`).
    files
        The weights in its repository, first that exists, where bleepdb fetches them itself.
    licence
        Of the weights; None where not confirmed.
    access
        ``"open"``, ``"gated"`` (an account, accepted terms and a token), ``"on request"`` (gated,
        and people decide on each request) or ``"package"`` (from the package index).
    paper, source
        URLs of the paper and of where these facts were read.
    needs, install
        Package that must be importable, and how to get it.
    note
        What else a user should know.
    tried
        Whether its weights have been loaded by this code.
    """

    name: str
    spec: str
    about: str
    library: Library
    architecture: str | None
    input_px: int
    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pixels: Pixels | None = None
    mpp: float | None = None
    width: int | None = None
    feature: str = "class token"
    layout: Layout = "own"
    files: tuple[str, ...] = ()
    licence: str | None = None
    access: Access = "gated"
    paper: str | None = None
    needs: str | None = None
    install: str | None = None
    note: str = ""
    tried: bool = False

    @property
    def repository(self) -> str | None:
        """``ORG/NAME`` on the Hugging Face hub, or None."""
        _, mark, name = self.spec.partition("hf-hub:")
        return name if mark else None

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        made = {one.name: getattr(self, one.name) for one in fields(self)}
        pixels = None if self.pixels is None else self.pixels._asdict()
        return made | {
            "arguments": dict(self.arguments), "files": list(self.files), "pixels": pixels,
        }  # fmt: skip


@cache
def known_encoders() -> dict[str, KnownEncoder]:
    """Return all records by short name, in the order of the table."""
    from bleepdb.encoders.known_table import TABLE  # noqa: PLC0415 - the table imports the record

    return {one.name: one for one in TABLE}


def known_by_spec(base: str) -> KnownEncoder | None:
    """Return the record of a spec without arguments; hub names are compared without case."""
    wanted = base.replace("hf_hub:", "hf-hub:").lower()
    return next((k for k in known_encoders().values() if k.spec.lower() == wanted), None)


def known_encoder(name: str) -> KnownEncoder:
    """Return the record of a short name or a spec.

    Raises
    ------
    ModelError
        If there is none; the message names those that are written alike.
    """
    found = known_encoders().get(name.lower()) or known_by_spec(split_spec(name)[0])
    if found is None:
        # A model of a library needs no record.
        hint = f"it may work all the same: --encoder {name}" if ":" in name else _near(name)
        raise ModelError(f"no known encoder is named {name!r}", hint=hint)
    return found


def resolve(encoder: str) -> tuple[str, KnownEncoder | None]:
    """Return the whole spec that an encoder stands for, and its record if it is a known one.

    A short name stands for its spec with the arguments of its record; arguments behind it are
    added. A spec without arguments is given those of its record, if there is one; a spec with
    arguments, such as a model card keeps, is taken as it is.

    Parameters
    ----------
    encoder
        ``uni2-h``, ``uni2-h?img_size=448``, or a spec.

    Raises
    ------
    ModelError
        If it names nothing.
    """
    base, given = split_spec(encoder)
    if ":" not in base:
        found = known_encoders().get(base.lower())
        if found is None:
            raise ModelError(
                f"{encoder!r} names no backbone", hint=f"write {KINDS}, or {_near(base)}"
            )
        return joined_spec(found.spec, {**found.arguments, **given}), found
    known = known_by_spec(base)
    if known is None:
        return encoder, None
    return joined_spec(known.spec, given or known.arguments), known


def _near(name: str) -> str:
    near = get_close_matches(name.lower(), known_encoders(), n=3, cutoff=0.5)
    told = "`bleepdb encoders` lists those known by a short name"
    return f"a short name such as {', '.join(near)}: {told}" if near else told
