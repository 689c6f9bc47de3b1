"""Decoding beside the search: a helper process takes every second batch of payloads.

To decode a spot takes Python more time than anything else in a first query, and threads only wait
for each other there. The helper is this module run by the same interpreter. It reads batches from
its standard input and writes arrays to its standard output; nothing that it is sent is code. What
it cannot decode, or where it cannot run, is decoded here, where errors name the point.

The standard library's process pool is not used: its workers import the main module again, so that
a script without a guard of its own could not call a query, and forking a process that has run
torch or the engine is not safe.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bleepdb.atlas.payload import decode_fields
from bleepdb.counts import runs_of
from bleepdb.errors import PayloadError
from bleepdb.names import CODEC, EXPR, NNZ, TOTAL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType
    from typing import IO, Self

    from numpy.typing import NDArray

    Runs = tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.int32]]

WORTHWHILE: Final = 3000  # spots; below it, a helper has hardly started when all is done
PIPE_BYTES: Final = 2**20
_SIZES = struct.Struct("<QQ")


def decoded(payloads: Sequence[Mapping[str, Any]], n_genes: int) -> list[Runs]:
    """Decode spots of one panel and order their genes by count.

    Raises
    ------
    PayloadError
        If one does not decode.
    """
    return [runs_of(*decode_fields(payload, n_genes=n_genes)) for payload in payloads]


def cores() -> int:
    """Return how many cores this process may use: OMP_NUM_THREADS, else all that it has."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    try:
        own = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        own = os.cpu_count() or 1
    return int(named) if named.isdigit() else own


class Helper:
    """A process that decodes while this one does something else.

    It is busy from `send` until `receive`. It ends with the context.
    """

    def __init__(self) -> None:
        # The interpreter and the module are our own; what it is sent are numbers and payloads.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bleepdb.atlas.decoding"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe)
        self._pool = ThreadPoolExecutor(1)

    @classmethod
    def start(cls, spots: int) -> Self | None:
        """Start one where it is worthwhile and can be had; None elsewhere."""
        if spots < WORTHWHILE or cores() < 2:
            return None
        try:
            return cls()
        except OSError:
            return None

    def send(self, payloads: Sequence[Mapping[str, Any]], n_genes: int) -> Future[list[Runs]]:
        """Have spots decoded; the result raises where that fails, for whatever reason."""
        return self._pool.submit(self._exchange, payloads, n_genes)

    def _exchange(self, payloads: Sequence[Mapping[str, Any]], n_genes: int) -> list[Runs]:
        about = {"n_genes": n_genes, "spots": [[p[CODEC], p[NNZ], p[TOTAL]] for p in payloads]}
        texts = [p[EXPR].encode("ascii") for p in payloads]
        about["sizes"] = [len(text) for text in texts]
        out, back = self._process.stdin, self._process.stdout
        if out is None or back is None:
            raise BrokenPipeError
        _send(out, about, b"".join(texts))
        answer, data = _receive(back)
        sizes, runs = answer["nnz"], answer["runs"]
        kind = np.dtype(np.uint16 if n_genes <= 2**16 else np.uint32)
        genes = np.frombuffer(data, kind, sum(sizes))
        counts = np.frombuffer(data, np.uint32, sum(runs), genes.nbytes)
        lengths = np.frombuffer(data, np.int32, sum(runs), genes.nbytes + counts.nbytes)
        made: list[Runs] = []
        a = i = 0
        for size, run in zip(sizes, runs, strict=True):
            made.append((genes[a : a + size], counts[i : i + run], lengths[i : i + run]))
            a, i = a + size, i + run
        return made

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._pool.shutdown(wait=True)
        self._process.communicate()


def _widen(pipe: object) -> None:
    """Make a pipe hold a megabyte, where the system can: each refill waits for the other thread."""
    with suppress(ImportError, AttributeError, OSError):
        fcntl = import_module("fcntl")
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _send(file: IO[bytes], about: Mapping[str, Any], data: bytes) -> None:
    text = json.dumps(about).encode()
    file.write(_SIZES.pack(len(text), len(data)) + text)
    file.write(data)
    file.flush()


def _receive(file: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read one message; EOFError where there is none any more."""
    head = file.read(_SIZES.size)
    if len(head) < _SIZES.size:
        raise EOFError
    length, size = _SIZES.unpack(head)
    about: dict[str, Any] = json.loads(file.read(length))
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return about, data


def serve(source: IO[bytes], target: IO[bytes]) -> None:
    """Decode batches until there are no more, or one does not decode."""
    while True:
        try:
            about, data = _receive(source)
        except EOFError:
            return
        ends = np.cumsum(about["sizes"]).tolist()
        texts = (
            data[end - size : end].decode("ascii")
            for end, size in zip(ends, about["sizes"], strict=True)
        )
        payloads = [
            {CODEC: codec, NNZ: nnz, TOTAL: total, EXPR: text}
            for (codec, nnz, total), text in zip(about["spots"], texts, strict=True)
        ]
        try:
            made = decoded(payloads, about["n_genes"])
        except PayloadError:
            return  # it is decoded again where the error can name the point
        arrays = [array for column in zip(*made, strict=True) for array in column]
        answer = {"nnz": [len(g) for g, _, _ in made], "runs": [len(c) for _, c, _ in made]}
        _send(target, answer, b"".join(array.tobytes() for array in arrays))


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
