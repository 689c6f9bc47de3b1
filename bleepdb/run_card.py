"""The run card: what was run, with which versions, seeds and inputs; secrets left out."""

from __future__ import annotations

import platform
import re
import sys
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT_VERSION = 1
PACKAGES = (
    "bleepdb", "anndata", "lightning-fabric", "numpy", "open_clip_torch", "openslide-python",
    "pandas", "pillow", "pyarrow", "qdrant-client", "qdrant-edge-py", "scipy", "timm", "torch",
    "zstandard",
)  # fmt: skip
HIDDEN = "***"
SECRET_OPTION = re.compile(r"--?[\w-]*(api[-_]?key|token|password|secret)[\w-]*", re.IGNORECASE)
USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
SECRET_QUERY = re.compile(r"((?:api[-_]?key|token|password|secret)=)[^&\s]+", re.IGNORECASE)


def redact(text: str) -> str:
    """Hide the user part of URLs and the values of secret-looking parameters in a text."""
    return SECRET_QUERY.sub(rf"\g<1>{HIDDEN}", USER_INFO.sub(f"{HIDDEN}@", text))


def redact_command(arguments: Sequence[str]) -> list[str]:
    """Return a command line without secrets: ``--api-key X`` and ``--api-key=X`` lose their X."""
    safe: list[str] = []
    hide_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hide_next:
            safe.append(HIDDEN)
            hide_next = False
        elif SECRET_OPTION.fullmatch(name):
            safe.append(f"{name}={HIDDEN}" if equals else argument)
            hide_next = not equals
        else:
            safe.append(redact(argument))
    return safe


def versions(names: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return the installed versions of packages; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def make_run_card(
    *, seeds: Mapping[str, int] | None = None, command: Sequence[str] | None = None, **facts: object
) -> dict[str, Any]:
    """Return the run card (schemas/run_card.schema.json).

    Parameters
    ----------
    seeds
        Every seed that was used, by what it was used for.
    command
        The command line; default ``sys.argv``. Secrets are hidden.
    **facts
        What else names the run: atlas generation, model, inputs. JSON values.
    """
    line = list(sys.argv if command is None else command)
    return {
        "format_version": FORMAT_VERSION,
        "created": now(),
        "command": redact_command(line),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "seeds": dict(seeds or {}),
        "facts": dict(facts),
    }
