"""How a command reaches an atlas: one decorator gives it the options, and one value to open it."""

from __future__ import annotations

import functools
import inspect
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from bleepdb.errors import InputError

from .inputs import LockTimeoutOption, refuse_place
from .render import warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from bleepdb.atlas import Atlas, Connection

MOST_KEY_BYTES = 16384
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}", re.ASCII)

ApiKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        metavar="FILE|env:NAME",
        help="Where a server's API key is: a file that holds it, or env:NAME. Never the key "
        "itself. Default: QDRANT_API_KEY.",
        show_default=False,
    ),
]
CaCertOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-cert",
        help="PEM file of the authority that signed a server's certificate "
        "(or BLEEPDB_CA_CERT); default: the system's.",
        show_default=False,
    ),
]
GrpcOption = Annotated[
    bool, typer.Option("--grpc", help="Speak gRPC to a server instead of REST (or BLEEPDB_GRPC=1).")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        help="Seconds for one request to a server, retries included (or BLEEPDB_TIMEOUT). "
        "Default: 120.",
        show_default=False,
    ),
]
_OPTIONS: dict[str, tuple[Any, Any]] = {
    "api_key": (ApiKeyOption, None),
    "ca_cert": (CaCertOption, None),
    "grpc": (GrpcOption, False),
    "timeout": (TimeoutOption, None),
    "lock_timeout": (LockTimeoutOption, 10.0),
}


@dataclass(frozen=True)
class Opening:
    """What the options say of reaching an atlas.

    Parameters
    ----------
    api_key, ca_cert, grpc, timeout, lock_timeout
        As the options.
    """

    api_key: str | None = None
    ca_cert: Path | None = None
    grpc: bool = False
    timeout: float | None = None
    lock_timeout: float = 10.0

    def connection(self, *, sends_environment_key: bool = True) -> Connection:
        """Return the settings of a connection: options, then the environment, then defaults.

        Raises
        ------
        InputError
            If one cannot be used; a key is never repeated.
        """
        from bleepdb.atlas import Connection

        given = Connection.from_environment()
        changes: dict[str, Any] = {}
        if self.api_key is not None:
            changes["api_key"] = read_key(self.api_key)
        elif not sends_environment_key:
            changes["api_key"] = None
        if self.ca_cert is not None:
            changes["ca_cert"] = self.ca_cert
        if self.grpc:
            changes["prefer_grpc"] = True
        if self.timeout is not None:
            changes["deadline_s"] = self.timeout
            changes["timeout_s"] = min(self.timeout, given.timeout_s)
        return replace(given, **changes)

    def open(self, location: str, *, create: bool = False, named_by: Path | None = None) -> Atlas:
        """Open the atlas at a location.

        Parameters
        ----------
        location
            As ``--atlas``.
        create
            Make it if it is not there.
        named_by
            A file that names the location. Files come from others, and one could name a server
            that gathers keys: the key of the environment is sent there only on this machine.
        """
        from bleepdb.atlas import is_url, open_atlas

        if not is_url(location):
            return open_atlas(location, create=create, lock_timeout=self.lock_timeout)
        return open_atlas(
            location,
            create=create,
            connection=self.connection(sends_environment_key=self._trusts(location, named_by)),
        )

    def check_writable(self, location: str) -> None:
        """Refuse before the work an atlas that could not be written after it.

        A server is asked for its version and collections, so that one that is down, too old or
        wants another key is known at once; a folder is looked at, and not made.

        Raises
        ------
        AtlasError, InputError
            If it cannot be opened, cannot be made, or is read-only.
        """
        from bleepdb.atlas import is_snapshot, is_url, refuse_location

        refuse_location(location)
        if is_url(location):
            with self.open(location) as place:
                place.collections()
        elif is_snapshot(location):
            raise InputError(
                "a snapshot is read-only",
                where=location,
                hint="name the atlas that it was made from",
            )
        else:
            refuse_place(Path(location))

    def _trusts(self, location: str, named_by: Path | None) -> bool:
        from bleepdb.atlas.connection import KEY_VARIABLE, Address

        if named_by is None or self.api_key is not None or not os.environ.get(KEY_VARIABLE):
            return True
        address = Address.parse(location)
        if not address.is_loopback:
            warn(
                f"{KEY_VARIABLE} is not sent to {address}, which {named_by} names; "
                f"pass --atlas {address} to send it"
            )
        return address.is_loopback


OPENING = Opening()


def same_place(one: str, other: str) -> bool:
    """Tell whether two locations are one server, or one folder by whatever path."""
    from bleepdb.atlas import is_url
    from bleepdb.atlas.connection import Address

    if is_url(one) != is_url(other):
        return False
    if is_url(one):
        return Address.parse(one) == Address.parse(other)
    return Path(one).resolve() == Path(other).resolve()


def read_key(given: str) -> str:
    """Read the API key that ``--api-key`` points to.

    Raises
    ------
    InputError
        If it is no file and no ``env:NAME``. It is not repeated, since it may be the key itself.
    """
    scheme, colon, name = given.partition(":")
    if colon and scheme == "env":
        key = os.environ.get(name, "").strip() if _VARIABLE.fullmatch(name) else ""
        if not key:
            shown = f" {name}" if _VARIABLE.fullmatch(name) and len(name) <= 32 else ""
            raise InputError(
                f"the variable{shown} that --api-key names is not set",
                hint="export it, or give a file that holds the key",
            )
        return key
    try:
        path = Path(given)
        found = path.is_file()
        text = path.read_text(encoding="ascii") if found else ""
    except (OSError, ValueError):
        found, text = False, ""
    if not found:
        raise InputError(
            "--api-key names no file that can be read",
            hint="give a file that holds the key, or env:NAME; a key itself is not given here, "
            "where others on this machine can see it",
        )
    if not text.strip() or len(text) > MOST_KEY_BYTES or len(text.split()) != 1:
        raise InputError(
            "the file that --api-key names does not hold one key", hint="write it alone, in a line"
        )
    return text.strip()


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection; its parameter `opening` gets an `Opening`.

    The options stand in the help where `opening` stands among the parameters.
    """
    hints = get_type_hints(command, globalns=command.__globals__, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name == "opening":
            for name, (hint, default) in _OPTIONS.items():
                hints[name] = hint
                parameters.append(
                    inspect.Parameter(
                        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
                    )
                )
        else:
            parameters.append(
                parameter.replace(
                    kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name]
                )
            )
    hints.pop("opening")

    @functools.wraps(command)
    def run(**given: Any) -> None:  # noqa: ANN401 - whatever the command takes
        options = {name: given.pop(name) for name in _OPTIONS}
        if options["api_key"] is not None:
            read_key(options["api_key"])  # what is no file is refused, whatever the atlas is
        command(**given, opening=Opening(**options))

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # as inspect reads it
    run.__annotations__ = hints
    return run
