"""How a server is reached: its address, taken apart and shown without secrets, and the settings."""

from __future__ import annotations

import ipaddress
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from bleepdb.errors import AtlasError, InputError

KEY_VARIABLE = "QDRANT_API_KEY"
REST_PORT = 6333
GRPC_PORT = 6334
DEADLINE_S = 120.0
TIMEOUT_S = 60.0
_KEY = re.compile(r"[\x21-\x7e]{1,8192}", re.ASCII)  # what may stand in a header
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True)
class Connection:
    """Settings of a connection to a server; none of them matters to a folder.

    Parameters
    ----------
    api_key
        Full key, read-only key or token. Never shown.
    ca_cert
        PEM file of the authority that signed the server's certificate; default: the system's.
    prefer_grpc
        Speak gRPC instead of REST.
    grpc_port
        Default: the REST port plus one.
    deadline_s
        Seconds for one request with all its retries.
    timeout_s
        Seconds for one attempt.

    Raises
    ------
    InputError
        If one cannot be used. A key is not repeated.
    """

    api_key: str | None = field(default=None, repr=False)
    ca_cert: Path | None = None
    prefer_grpc: bool = False
    grpc_port: int | None = None
    deadline_s: float = DEADLINE_S
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if self.api_key is not None and not _KEY.fullmatch(self.api_key):
            raise InputError(
                "the API key is empty or holds spaces, line ends or other odd characters",
                hint="check the file or variable that it comes from",
            )
        for name in ("deadline_s", "timeout_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"a {name} of {value} seconds", hint="give a positive number")
        if self.ca_cert is not None and not Path(self.ca_cert).is_file():
            raise InputError("no such file", where=self.ca_cert, hint="check the path")

    @classmethod
    def from_environment(cls) -> Connection:
        """Return what ``QDRANT_API_KEY`` and the ``BLEEPDB_*`` variables say.

        ``BLEEPDB_CA_CERT`` (a path), ``BLEEPDB_GRPC`` (1 or 0), ``BLEEPDB_TIMEOUT`` (the deadline,
        in seconds).

        Raises
        ------
        InputError
            If one cannot be used.
        """
        ca_cert = os.environ.get("BLEEPDB_CA_CERT")
        text = os.environ.get("BLEEPDB_TIMEOUT", "")
        try:
            deadline_s = float(text) if text else DEADLINE_S
        except ValueError:
            raise InputError(
                f"BLEEPDB_TIMEOUT is {text!r:.40}", hint="give a number of seconds"
            ) from None
        return cls(
            api_key=os.environ.get(KEY_VARIABLE, "").strip() or None,
            ca_cert=Path(ca_cert) if ca_cert else None,
            prefer_grpc=os.environ.get("BLEEPDB_GRPC", "").lower() in _TRUE,
            deadline_s=deadline_s,
            timeout_s=min(TIMEOUT_S, deadline_s),
        )


@dataclass(frozen=True)
class Address:
    """A server's address in parts; it holds no secret.

    Parameters
    ----------
    scheme
        ``"http"`` or ``"https"``.
    host
        Without brackets.
    port
        6333 where the URL names none.
    path
        Of a server behind a proxy, without a final slash; mostly empty.
    """

    scheme: str
    host: str
    port: int
    path: str = ""

    @classmethod
    def parse(cls, location: str) -> Address:
        """Take a URL apart.

        Raises
        ------
        AtlasError
            If it is none, or holds user information, a query or a fragment. Nothing that may be
            a secret is repeated.
        """
        shown = shown_url(location)
        if not re.match(r"https?://[^/]", location, re.IGNORECASE):
            raise AtlasError("no URL of a server", where=shown, hint="write http://host:6333")
        rest = location.split("://", 1)[1]
        if "@" in rest:
            raise AtlasError(
                "a URL with user information cannot be an atlas",
                where=shown,
                hint=f"give the key with --api-key FILE or {KEY_VARIABLE}",
            )
        if "?" in rest or "#" in rest:
            raise AtlasError(
                "a URL with parameters cannot be an atlas",
                where=shown,
                hint=f"give the key with --api-key FILE or {KEY_VARIABLE}",
            )
        try:
            parts = urlsplit(location)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not re.fullmatch(r"[A-Za-z0-9._:%-]+", host) or port == 0:
            raise AtlasError(
                "no URL of a server", where=shown, hint="write http://host:6333"
            ) from None
        return cls(parts.scheme.lower(), host, port or REST_PORT, parts.path.rstrip("/"))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Whether what is sent stays on this machine."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check_key(self, connection: Connection) -> None:
        """Refuse to send a key over a network in the clear.

        Raises
        ------
        AtlasError
            If the scheme is http and the host is another machine.
        """
        if connection.api_key is not None and self.scheme == "http" and not self.is_loopback:
            raise AtlasError(
                "an API key would cross the network in the clear",
                where=str(self),
                hint="write https://, or reach the server through a tunnel to localhost",
            )


def shown_url(location: str) -> str:
    """Return scheme and host of a URL-like text for messages: no user, path or parameters.

    User information that is not quoted as it should be may be cut anywhere, so that nothing but
    the scheme is shown where an ``@`` stands behind the host, or where what stands there is none.
    """
    scheme, _, rest = location.partition(":")
    rest = rest.lstrip("/")
    host = re.split("[/?#]", rest)[0]
    if "@" in rest and "@" not in host:
        host = ""
    host = host.rpartition("@")[2]
    return f"{scheme.lower()}://{host if _HOST.fullmatch(host) else ''}"
