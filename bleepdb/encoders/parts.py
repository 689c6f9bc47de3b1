"""Layers that a constructor argument may name, and the stem that timm does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from timm.layers.helpers import to_2tuple
from timm.layers.mlp import SwiGLU, SwiGLUPacked
from torch import nn

from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor


class ConvStem(nn.Module):
    """The convolutional stem of CTransPath (doi:10.1016/j.media.2022.102559), for timm's Swin.

    Two 3x3 convolutions of stride 2, each with batch norm and ReLU, and one of 1x1: an embedding
    of every 4 x 4 pixels, (n, h/4, w/4, C), as timm's own patch embedding returns.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Any = None,  # noqa: ANN401 - a class, as timm passes it
        **_: Any,  # noqa: ANN401 - what timm's own patch embedding takes besides
    ) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        height, width = to_2tuple(img_size)
        self.grid_size = (height // patch_size, width // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        channels, wider = in_chans, embed_dim // 8
        for _step in range(2):
            layers += [
                nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wider),
                nn.ReLU(inplace=True),
            ]
            channels, wider = wider, wider * 2
        self.proj = nn.Sequential(*layers, nn.Conv2d(channels, embed_dim, 1))
        self.norm = norm_layer(embed_dim) if norm_layer is not None else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Embed (n, 3, h, w) as (n, h/4, w/4, C)."""
        made: Tensor = self.norm(self.proj(images).permute(0, 2, 3, 1))
        return made


CLASSES: Final[dict[str, Callable[..., nn.Module]]] = {
    "ConvStem": ConvStem,
    "GELU": nn.GELU,
    "ReLU": nn.ReLU,
    "SiLU": nn.SiLU,
    "SwiGLU": SwiGLU,
    "SwiGLUPacked": SwiGLUPacked,
}


def with_classes(spec: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments with the classes that they name.

    Raises
    ------
    ModelError
        If a layer is named that is not listed.
    """
    made = dict(arguments)
    for key, value in arguments.items():
        if key.endswith("_layer"):
            if value not in CLASSES:
                raise ModelError(
                    f"{key}={value} names no layer",
                    where=spec.partition("?")[0],
                    hint=f"use {', '.join(CLASSES)}",
                )
            made[key] = CLASSES[value]
    return made
