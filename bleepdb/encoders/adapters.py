"""Encoders that packages of their own build: CONCH, CONCH v1.5 and MUSK.

The packages are optional, and installed code: nothing is run that a hub brings. They read their
weights with ``torch.load``, which since torch 2.6 refuses to run code unless it is told to.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import timm
from torch import nn

from bleepdb.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from bleepdb.encoders.known import KnownEncoder


class Adapted(nn.Module):
    """A network of a package, asked for one vector an image.

    Parameters
    ----------
    inner
        The package's network.
    ask
        Called with it and images (n, 3, h, w); returns (n, D).
    trunk
        A network of timm inside it whose levels may be read, or None.
    """

    def __init__(
        self,
        inner: nn.Module,
        ask: Callable[[Any, Tensor], Tensor],
        trunk: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner
        self._ask = ask
        self._trunk = [trunk]  # in a list: registered once, inside the package's network

    @property
    def trunk(self) -> nn.Module | None:
        """The network of timm inside, or None."""
        return self._trunk[0]

    def forward(self, images: Tensor) -> Tensor:
        """Return (n, D)."""
        return self._ask(self.inner, images)


def check_installed(known: KnownEncoder) -> None:
    """Check that the package which an encoder needs is there.

    Raises
    ------
    MissingExtraError
        That says what to install.
    """
    if known.needs is not None and find_spec(known.needs) is None:
        raise MissingExtraError(
            f"{known.name} needs the package {known.needs}, which is not installed",
            hint=known.install or f"pip install {known.needs}",
        )


def adapted(known: KnownEncoder, weights: Path | None) -> nn.Module:
    """Build the network of a known encoder through its package.

    Parameters
    ----------
    known
        Its record.
    weights
        A weights file, or None: from the hub.

    Raises
    ------
    MissingExtraError
        If its package is not installed.
    ModelError
        If the package offers another interface than the one that is known.
    """
    check_installed(known)
    place = f"hf_hub:{known.repository}" if weights is None else str(weights)
    try:
        return _MAKERS[known.library](known, place, weights)
    except (ImportError, AttributeError, TypeError) as error:
        raise ModelError(
            f"the installed package {known.needs} is not the one that is known here ({error})",
            where=known.spec,
            hint=known.install,
        ) from error


def _conch(known: KnownEncoder, place: str, _: Path | None) -> nn.Module:
    package = import_module("conch.open_clip_custom")
    made = package.create_model_from_pretrained(known.architecture, place, return_transform=False)
    return Adapted(made.visual, lambda n, x: n.forward_no_head(x), made.visual.trunk)


def _musk(known: KnownEncoder, place: str, _: Path | None) -> nn.Module:
    import_module("musk.modeling")  # registers its network with timm
    made = timm.create_model(str(known.architecture))
    import_module("musk.utils").load_model_and_may_interpolate(place, made, "model|module", "")
    return Adapted(
        made, lambda n, x: n(image=x, with_head=False, out_norm=False, return_global=True)[0]
    )


def _trident(known: KnownEncoder, _: str, weights: Path | None) -> nn.Module:
    factory = import_module("trident.patch_encoder_models").encoder_factory
    made = factory(known.architecture, weights_path=None if weights is None else str(weights))
    return Adapted(made, lambda n, x: n(x))


_MAKERS: dict[str, Callable[[KnownEncoder, str, Any], nn.Module]] = {
    "conch": _conch,
    "musk": _musk,
    "trident": _trident,
}
