"""Starting the wire face, giving it orders, and finding the OpenAPI document."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

FACE = Path(__file__).with_name("face.py")
ROOT = Path(__file__).resolve().parents[2]


def openapi_document() -> Path | None:
    """Qdrant's published document: beside BLEEPDB_TEST_DATA, then in ../shared/qdrant."""
    named = os.environ.get("BLEEPDB_TEST_DATA")
    places = [Path(named).parent] if named else []
    for place in [*places, ROOT.parent / "shared"]:
        found = place / "qdrant" / "openapi-1.19.json"
        if found.is_file():
            return found
    return None


def _memory() -> str | None:
    place = Path("/dev/shm")  # noqa: S108 - a folder with a name of its own is made there
    usable = place.is_dir() and os.access(place, os.W_OK)
    return str(place) if usable and shutil.disk_usage(place).free > 2**30 else None


class Face:
    """A running face; its URL is `url`.

    Parameters
    ----------
    root
        Where it keeps its collections; None for a folder of its own, in memory where there is
        such a place, which is removed at the end: the engine waits for the disk again and again.
    options
        Further words of its command line.
    """

    def __init__(self, root: Path | None, *options: str, port: int = 0) -> None:
        self._own = None if root is not None else tempfile.TemporaryDirectory(dir=_memory())
        self.root = root if root is not None else Path(self._own.name)
        self.options, self.port = options, port
        self.start()

    def start(self) -> None:
        """Start it, on the port that it had before."""
        words = [sys.executable, str(FACE), "--root", str(self.root), "--port", str(self.port)]
        self.process = subprocess.Popen([*words, *self.options], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().removeprefix("ready "))
        self.url = f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.communicate()

    def _post(self, what: str, wish: dict) -> dict:
        request = urllib.request.Request(
            f"{self.url}/_face/{what}", data=json.dumps(wish).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def set(self, **wish) -> None:
        """Take orders: key, read_only_key, version, down (seconds), faults (a list)."""
        self._post("set", wish)

    def fail(self, kind: str, **fault) -> None:
        """Order one fault; see `face.py`."""
        self.set(faults=[{"kind": kind, **fault}])

    def state(self) -> dict:
        return self._post("state", {})

    def settle(self) -> None:
        """Return when what a killed client had sent is done, and nothing more comes."""
        before = None
        while (state := self.state()) != before or state["active"]:
            before = state
            time.sleep(0.2)

    def reset(self) -> None:
        """Drop all collections, forget all orders."""
        self._post("reset", {})

    def __enter__(self):
        return self

    def __exit__(self, *given) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.communicate(timeout=10)
        if self.process.poll() is None:
            self.kill()
        if self._own is not None:
            self._own.cleanup()
