"""What a server or the way to it raises, sorted: which fault it is, and whether to try again."""

from __future__ import annotations

import json
import math
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import grpc
import httpx
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

CAUGHT = (
    ResponseHandlingException,
    UnexpectedResponse,
    QdrantException,
    grpc.RpcError,
    httpx.HTTPError,
    ValueError,  # an answer that is no JSON
)
REFUSED, SILENT, BROKEN, TLS, NO_HOST, FOREIGN = (
    "refused", "silent", "broken", "tls", "no host", "foreign",
)  # fmt: skip
AGAIN = frozenset({REFUSED, SILENT, BROKEN})
AGAIN_STATUS = frozenset({429, 502, 503, 504})
MOST_500 = 3  # an internal error is tried again, but it seldom goes away
_GRPC_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 404,
    grpc.StatusCode.ABORTED: 503,
}


@dataclass(frozen=True)
class Fault:
    """One failed attempt.

    Parameters
    ----------
    kind
        One of the words above; empty where the server answered with a status.
    status
        HTTP status of the answer, or what a gRPC code means in HTTP.
    says
        The server's or system's own words, shortened.
    wait_s
        How long the server asks to wait.
    """

    kind: str = ""
    status: int = 0
    says: str = ""
    wait_s: float | None = None

    def again(self, attempts: int) -> bool:
        """Tell whether another attempt may help after so many."""
        if self.status == 500:
            return attempts < MOST_500
        return self.kind in AGAIN or self.status in AGAIN_STATUS


def fault_of(error: BaseException) -> Fault:
    """Sort what one attempt raised."""
    if isinstance(error, ResourceExhaustedResponse):
        return Fault(status=429, says=_short(error.message), wait_s=float(error.retry_after_s))
    if isinstance(error, UnexpectedResponse):
        return Fault(
            status=error.status_code or 0,
            says=_message(error.content),
            wait_s=_retry_after(error.headers.get("Retry-After")),
        )
    if isinstance(error, QdrantException):  # a Retry-After that the client cannot read
        return Fault(status=429, says="too many requests")
    if isinstance(error, grpc.RpcError):
        return _grpc_fault(error)
    source = error.source if isinstance(error, ResponseHandlingException) else error
    return _connection_fault(source)


def _connection_fault(source: BaseException) -> Fault:
    says = _short(str(source))
    tls = any(isinstance(e, ssl.SSLError) for e in _chain(source)) or "SSL" in says
    if tls:
        return Fault(TLS, says=says)
    if "Name or service not known" in says or "nodename nor servname" in says:
        return Fault(NO_HOST, says=says)
    if isinstance(source, httpx.ConnectError | httpx.ConnectTimeout):
        return Fault(REFUSED, says=says)
    if isinstance(source, httpx.TimeoutException):
        return Fault(SILENT, says=says)
    if isinstance(source, httpx.TransportError) and not isinstance(
        source, httpx.UnsupportedProtocol | httpx.LocalProtocolError
    ):
        return Fault(BROKEN, says=says)
    return Fault(FOREIGN, says=type(source).__name__)


def _grpc_fault(error: grpc.RpcError) -> Fault:
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    says = _short(str(error.details() if isinstance(error, grpc.Call) else "") or code.name)
    if code is grpc.StatusCode.UNAVAILABLE:
        handshake = "SSL" in says or "handshake" in says.lower()
        return Fault(TLS if handshake else REFUSED, says=says)
    if code in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}:
        return Fault(SILENT, says=says)
    return Fault(status=_GRPC_STATUS.get(code, 500), says=says)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _message(content: bytes) -> str:
    """Return the words in an answer's body, which should be ``{"status": {"error": ...}}``."""
    try:
        document: Any = json.loads(content)
        return _short(str(document["status"]["error"]))
    except (ValueError, TypeError, KeyError):
        return _short(content[:400].decode("utf-8", "replace"))


def _short(text: str) -> str:
    return " ".join(text.split())[:300]


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header asks for: a number, or a date."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
