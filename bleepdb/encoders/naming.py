"""How a backbone is named: a spec, and behind a question mark its constructor arguments.

``hf-hub:MahmoodLab/UNI?dynamic_img_size=true&img_size=224&init_values=1e-05`` is all that a model
card must keep to build the same network again. Values are JSON, or else a word. Arguments are
numbers, flags and names; the names of layers stand for classes that `bleepdb.encoders.making`
lists, so that a card can name a class and never bring one. Nothing here loads torch.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from bleepdb.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS: Final = "timm:NAME, open_clip:NAME[/PRETRAINED] or hf-hub:ORG/NAME"
ARGUMENTS: Final = frozenset(
    (
        "act_layer", "class_token", "depth", "depths", "dynamic_img_pad", "dynamic_img_size",
        "embed_dim", "embed_layer", "fc_norm", "global_pool", "img_size", "init_values",
        "mlp_layer", "mlp_ratio", "no_embed_class", "num_heads", "patch_size", "pre_norm",
        "qkv_bias", "reg_tokens", "window_size",
    )
)  # fmt: skip
"""Those that describe a network; none of them reads a file or reaches the network."""
MOST: Final = 65_536
_WORD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def split_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split a spec into its base and its constructor arguments.

    Raises
    ------
    ModelError
        If an argument is unknown, has no value, or its value is no number, flag or name.
    """
    base, mark, query = spec.partition("?")
    if not mark:
        return base, {}
    made: dict[str, Any] = {}
    for pair in query.split("&"):
        name, equals, text = pair.partition("=")
        if not equals or name not in ARGUMENTS:
            raise ModelError(
                f"{pair!r} is no constructor argument of a backbone",
                where=base,
                hint="write ?NAME=VALUE&NAME=VALUE with names such as img_size, dynamic_img_size",
            )
        made[name] = _value(base, name, text)
    return base, made


def joined_spec(base: str, arguments: Mapping[str, Any]) -> str:
    """Return the spec that `split_spec` splits into these; arguments sorted by name."""
    if not arguments:
        return base
    return f"{base}?" + "&".join(f"{k}={_text(v)}" for k, v in sorted(arguments.items()))


def _value(base: str, name: str, text: str) -> Any:  # noqa: ANN401 - a JSON value
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    words = value if isinstance(value, list) else [value]
    for one in words:
        if isinstance(one, str):
            fits = not one or _WORD.fullmatch(one) is not None
        else:
            fits = isinstance(one, int | float) and 0 <= one <= MOST
        if not fits:
            raise ModelError(
                f"{name}={text} is no number, flag or name that a backbone could take",
                where=base,
                hint=f"give a number from 0 to {MOST}, true, false or a name",
            )
    return value


def _text(value: Any) -> str:  # noqa: ANN401 - a JSON value
    plain = isinstance(value, str) and (not value or _WORD.fullmatch(value) is not None)
    if plain and value not in {"true", "false", "null", "NaN", "Infinity"}:
        return str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, separators=(",", ":"))
