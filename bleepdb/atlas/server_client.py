"""One connection to a Qdrant server: retries under a deadline, and errors that are ours."""

from __future__ import annotations

import random
import re
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from qdrant_client import QdrantClient

from bleepdb.atlas import checks
from bleepdb.atlas.connection import GRPC_PORT, KEY_VARIABLE, REST_PORT, Address, Connection
from bleepdb.atlas.server_faults import (
    CAUGHT,
    FOREIGN,
    NO_HOST,
    REFUSED,
    SILENT,
    TLS,
    Fault,
    fault_of,
)
from bleepdb.errors import AtlasError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    T = TypeVar("T")

MINIMUM = (1, 16)  # collection metadata and conditional updates, which the manifest needs
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
CONTACT_S = 10.0  # for the first word: a mistyped host shall not take minutes
CONNECT_S = 10.0  # for one attempt to connect
_KEY_HINT = f"give the key with --api-key FILE or {KEY_VARIABLE}"


class Client:
    """Calls to one server, each tried again until it succeeds, fails for good, or time is up.

    Every call must be harmless to repeat, since an answer that was lost may follow a change that
    was made. Threads may share it.

    Parameters
    ----------
    address
        Of the server.
    connection
        Key, certificates, deadlines.

    Raises
    ------
    AtlasError
        If there is no server, it refuses the key, or it is too old.
    """

    def __init__(self, address: Address, connection: Connection) -> None:
        address.check_key(connection)
        self.where = str(address)
        self._address, self._settings = address, connection
        self._due = threading.local()
        self._closed = False
        self._qdrant = self._connect()
        try:
            self.version = self._read_version()
        except BaseException:
            self._qdrant.close()
            raise

    def _connect(self) -> Any:  # noqa: ANN401 - qdrant-client's types are not for us
        address, connection = self._address, self._settings
        verify: ssl.SSLContext | bool = True
        grpc_options: dict[str, Any] = {}
        if connection.ca_cert is not None:
            try:
                verify = ssl.create_default_context(cafile=str(connection.ca_cert))
                grpc_options["root_certificates"] = connection.ca_cert.read_bytes()
            except (ssl.SSLError, OSError) as error:
                raise InputError(
                    "no PEM file of certificates", where=connection.ca_cert, hint="check the file"
                ) from error
        derived = GRPC_PORT if address.port == REST_PORT else address.port + 1
        made = QdrantClient(
            url=f"{address.scheme}://{_host(address)}:{address.port}",
            prefix=address.path or None,
            prefer_grpc=connection.prefer_grpc,
            grpc_port=connection.grpc_port or derived,
            grpc_options=grpc_options or None,
            # As a header: the client's own argument warns of plain http even on loopback.
            headers=None if connection.api_key is None else {"api-key": connection.api_key},
            timeout=max(1, int(connection.timeout_s)),
            check_compatibility=False,  # ours says more, and says it once
            verify=verify,
            trust_env=not address.is_loopback,  # no proxy hears what is meant for this machine
            limits=httpx.Limits(max_connections=32, max_keepalive_connections=32),
        )
        made.http.client.add_middleware(self._with_timeouts)
        return made

    def _with_timeouts(
        self, request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]
    ) -> httpx.Response:
        """Let no attempt last longer than what is left of its call's deadline."""
        left = getattr(self._due, "at", time.monotonic() + 1.0) - time.monotonic()
        longest = max(0.05, min(self._settings.timeout_s, left))
        connect = min(longest, CONNECT_S)
        request.extensions["timeout"] = {
            "connect": connect, "read": longest, "write": longest, "pool": longest,
        }  # fmt: skip
        return send(request)

    def close(self) -> None:
        """Close the connections. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._qdrant.close()

    def check_open(self) -> None:
        """Refuse work after `close`."""
        if self._closed:
            raise AtlasError("this atlas was closed", where=self.where)

    # --- calls --------------------------------------------------------------------------------

    def call(
        self,
        what: str,
        act: Callable[[Any], T],
        *,
        collection: str | None = None,
        writes: bool = False,
        deadline_s: float | None = None,
    ) -> T:
        """Run one request until it succeeds, fails for good, or the deadline is over.

        Parameters
        ----------
        what
            What it does, as a clause for messages: ``"count points"``.
        act
            Called with the qdrant-client; may be called several times.
        collection
            What it is about; where the server knows none of this name, EmptyAtlasError is raised.
        writes
            Whether it changes something, for the hint.
        deadline_s
            Shorter or longer than the connection's.
        """
        self.check_open()
        end = time.monotonic() + (deadline_s or self._settings.deadline_s)
        attempts = 0
        while True:
            attempts += 1
            self._due.at = end
            try:
                return act(self._qdrant)
            except CAUGHT as error:
                fault = fault_of(error)
                pause = self._pause(fault, attempts)
                if not fault.again(attempts) or time.monotonic() + pause >= end:
                    raise self._worded(
                        what, fault, attempts, collection=collection, writes=writes
                    ) from error
            time.sleep(pause)

    @staticmethod
    def _pause(fault: Fault, attempts: int) -> float:
        """Return seconds to wait: as the server asks, else doubling, with jitter."""
        longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 10))
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - no secret; it keeps clients apart
        return max(fault.wait_s or 0.0, longest * jitter)

    def _worded(
        self, what: str, fault: Fault, attempts: int, *, collection: str | None, writes: bool
    ) -> AtlasError:
        """Say in one line what went wrong and what to do."""
        where = self.where if collection is None else f"{self.where}/{collection}"
        tries = f" ({attempts} attempts)" if attempts > 1 else ""
        says = self._clean(fault.says)
        rerun = "run again: what was done is kept" if writes else "run again"
        said = {
            REFUSED: ("the server cannot be reached", "check that it runs, and the URL"),
            SILENT: ("the server gave no answer in time", f"{rerun}, or raise --timeout"),
            TLS: ("no secure connection", "check the scheme, or give its authority with --ca-cert"),
            NO_HOST: ("there is no such host", "check the URL"),
            FOREIGN: ("what answers is no Qdrant server", "check host and port"),
            401: ("the server refuses the API key", _KEY_HINT),
            403: (f"the API key may not {what}", "use one that may write" if writes else _KEY_HINT),
            413: (f"the server finds a request too large to {what}", "raise its limit"),
            429: ("the server is too busy", f"{rerun} later"),
        }  # fmt: skip
        if fault.status == 404 and collection is not None:
            return checks.no_collection(collection, where=self.where)
        if fault.status == 401 and self._settings.api_key is None:
            said[401] = ("the server wants an API key", _KEY_HINT)
        if fault.wait_s is not None and fault.status in {429, 503}:
            says = f"it asks to wait {fault.wait_s:.0f} s"
        clause, hint = said.get(
            fault.kind or fault.status,
            (
                f"cannot {what}: the server answered {fault.status}"
                if fault.status
                else f"cannot {what}: the connection broke",
                rerun if fault.again(1) else "see the server's log",
            ),
        )
        detail = f": {says}" if says and fault.kind != SILENT else ""
        return AtlasError(f"{clause}{tries}{detail}", where=where, hint=hint)

    def _clean(self, text: str) -> str:
        key = self._settings.api_key
        return text if key is None else text.replace(key, "***")

    # --- version ------------------------------------------------------------------------------

    def _read_version(self) -> tuple[int, int]:
        """Read the server's version once; refuse one that lacks what the manifest needs."""
        shorter = min(CONTACT_S, self._settings.deadline_s)
        info = self.call("read the version", lambda q: q.info(), deadline_s=shorter)
        found = re.match(r"v?(\d+)\.(\d+)", str(info.version))
        if found is None:
            raise AtlasError(
                "what answers is no Qdrant server", where=self.where, hint="check host and port"
            )
        version = int(found[1]), int(found[2])
        if version < MINIMUM:
            raise AtlasError(
                f"the server is Qdrant {info.version:.40}, too old: bleepdb needs "
                f"{MINIMUM[0]}.{MINIMUM[1]} or newer",
                where=self.where,
                hint="upgrade it, one minor version after the other",
            )
        return version


def _host(address: Address) -> str:
    return f"[{address.host}]" if ":" in address.host else address.host
