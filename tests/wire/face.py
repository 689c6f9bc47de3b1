"""Test only: Qdrant's REST API, as far as bleepdb uses it, over the real engine. Loopback only.

    python tests/wire/face.py --root DIR [--port N] [--key K] [--read-only-key R] [--openapi FILE]

Prints ``ready PORT`` when it listens. What is under DIR is served again after a restart or a kill.
Behind a first part of the path such as /t7 lies a store of its own, as behind a proxy. It can
misbehave on order: POST /_face/set takes the switches, /_face/state tells what was asked and
/_face/reset empties it.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from edge_rest import RefusedError, Store
from openapi import OpenApi

MOST_BODY = 32 * 2**20  # the server's own default
COLLECTION = "/collections/{collection_name}"
ROUTES = {  # method of the store, and what it takes: collection, body, wait
    ("GET", "/collections"): ("collections", ""),
    ("GET", "/aliases"): ("aliases", ""),
    ("POST", "/collections/aliases"): ("change_aliases", "b"),
    ("GET", f"{COLLECTION}/aliases"): ("aliases", "c"),
    ("GET", f"{COLLECTION}/exists"): ("exists", "c"),
    ("PUT", COLLECTION): ("create", "cb"),
    ("GET", COLLECTION): ("info", "c"),
    ("PATCH", COLLECTION): ("patch", "cb"),
    ("DELETE", COLLECTION): ("drop", "c"),
    ("PUT", f"{COLLECTION}/index"): ("index", "cbw"),
    ("PUT", f"{COLLECTION}/points"): ("upsert", "cbw"),
    ("POST", f"{COLLECTION}/points"): ("retrieve", "cb"),
    ("POST", f"{COLLECTION}/points/delete"): ("delete", "cbw"),
    ("POST", f"{COLLECTION}/points/scroll"): ("scroll", "cb"),
    ("POST", f"{COLLECTION}/points/count"): ("count", "cb"),
    ("POST", f"{COLLECTION}/facet"): ("facet", "cb"),
    ("POST", f"{COLLECTION}/points/query/batch"): ("query_batch", "cb"),
}
FREE = {"/", "/healthz", "/livez", "/readyz"}  # asked without a key
STORE = re.compile(r"(/t[0-9a-z]+)(?=/|$)")
READS = {"scroll", "count", "facet", "batch", "points"}  # ends of POST paths that change nothing


def route(method: str, path: str) -> tuple[str, str | None]:
    """Path as the OpenAPI document writes it, and the collection named in it."""
    if (method, path) in ROUTES or path in FREE:
        return path, None
    found = re.fullmatch(r"/collections/([^/]+)(/.*)?", path)
    if found is None:
        raise RefusedError(404, "Not found")
    template = COLLECTION + (found[2] or "")
    if (method, template) not in ROUTES:
        raise RefusedError(404, f"Not found: {method} {template}")
    return template, unquote(found[1])


class Face:
    """What all connections share: stores, keys, switches, the record of what was asked."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.stores = {"": Store(options.root)}
        self.judge = None if options.openapi is None else OpenApi(options.openapi)
        self.options = options
        self.lock = threading.Lock()
        self.down_until = 0.0
        self.active = 0  # requests that are being answered
        self.forget()

    def store(self, name: str) -> Store:
        """The store behind the first part of a path; empty for none."""
        with self.lock:
            if name not in self.stores:
                self.stores[name] = Store(self.options.root / name.strip("/"))
            return self.stores[name]

    def empty(self) -> None:
        """Drop all collections of all stores."""
        for store in list(self.stores.values()):
            store.clear()

    def forget(self) -> None:
        """Take back all switches, and forget what was asked."""
        self.key, self.read_only_key = self.options.key, self.options.read_only_key
        self.version = self.options.version
        self.faults: list[dict] = []
        self.asked: Counter[str] = Counter()
        self.largest = 0
        self.checked = 0
        self.violations: list[str] = []

    def set(self, wish: dict) -> None:
        """Take switches: keys, version, faults; `down` ends the listening for some seconds."""
        with self.lock:
            for name in ("key", "read_only_key", "version"):
                setattr(self, name, wish.get(name, getattr(self, name)))
            self.faults = wish.get("faults", self.faults)
            if "down" in wish:
                self.down_until = time.monotonic() + wish["down"]

    def fault(self, method: str, path: str) -> dict | None:
        """The fault that is due for this request, if one is."""
        with self.lock:
            for one in self.faults:
                if not re.fullmatch(one.get("on", ".*"), f"{method} {path}"):
                    continue
                if one.get("after", 0) > 0:
                    one["after"] -= 1
                elif one.get("times", 1) > 0:
                    one["times"] = one.get("times", 1) - 1
                    return one
        return None

    def allow(self, method: str, path: str, given: str | None) -> None:
        """Refuse what the key may not do."""
        if self.key is None or path in FREE:
            return
        if given not in {self.key, self.read_only_key} or given is None:
            raise RefusedError(401, "Must provide an API key or an Authorization bearer token")
        reads = method == "GET" or (method == "POST" and path.rpartition("/")[2] in READS)
        if given == self.read_only_key and not reads:
            raise RefusedError(403, "Forbidden: Global manage access is required")

    def note(self, method, path, query, request, status, answer) -> None:
        """Hold an exchange against the OpenAPI document."""
        with self.lock:
            self.checked += 1
        found = self.judge.faults(method, path, query, request, status, answer)
        with self.lock:
            self.violations += found

    def state(self) -> dict:
        with self.lock:
            return {
                "active": self.active,
                "asked": dict(self.asked),
                "largest": self.largest,
                "checked": self.checked,
                "violations": self.violations,
            }


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer leaves in one piece
    face: Face

    def log_message(self, *given: object) -> None:
        """Keep quiet."""

    def _give(self, status, body, kind="application/json", *, cut=False, **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        self.wfile.flush()

    def _close(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(size)
        parts = urlsplit(self.path)
        if parts.path.startswith("/_face/"):
            return self._control(parts.path, json.loads(raw or b"{}"))
        face, body = self.face, json.loads(raw) if raw else None
        behind = STORE.match(parts.path)
        name = "" if behind is None else behind[1]
        store, path = face.store(name), parts.path.removeprefix(name) or "/"
        if time.monotonic() < face.down_until:
            return self._close()
        query = {k: v[-1] for k, v in parse_qs(parts.query).items()}
        due = face.fault(self.command, path) or {}
        kind = due.get("kind")
        with face.lock:
            face.asked[f"{self.command} {path}"] += 1
            face.largest = max(face.largest, size)
        time.sleep(due.get("seconds", 0) if kind == "slow" else 0)
        if kind == "cut":
            return self._close()
        headers, template = {}, path
        try:
            template, collection = route(self.command, path)
            if kind == "status":
                if "retry_after" in due:
                    headers["Retry_After"] = due["retry_after"]
                raise RefusedError(due["code"], due.get("says", "made to fail"))  # noqa: TRY301 - one way out
            given = self.headers.get("api-key")
            if given is None:
                given = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
            face.allow(self.command, path, given)
            if size > MOST_BODY:
                raise RefusedError(413, "JSON payload is larger than allowed")  # noqa: TRY301 - as above
            status, answer = 200, self._answer(store, template, collection, body, query)
        except RefusedError as refused:
            status = refused.status
            answer = {"status": {"error": refused.message}, "time": 0.0}
        except (KeyError, TypeError, ValueError) as error:
            status = 400
            answer = {
                "status": {"error": f"Format error in JSON body: {error!r:.200}"},
                "time": 0.0,
            }
        if face.judge is not None and status != 404:
            face.note(self.command, template, query, body, status, answer)
        if kind == "drop":  # applied, and nobody is told
            return self._close()
        if kind == "half":  # applied, and nobody understands
            self._give(status, json.dumps(answer).encode(), cut=True)
            return self._close()
        if status == 401:  # the server says this one in plain text
            return self._give(401, answer["status"]["error"].encode(), "text/plain")
        return self._give(status, json.dumps(answer).encode(), **headers)

    def _answer(self, store, template, collection, body, query):
        if template == "/":
            return {"title": "qdrant - vector search engine", "version": self.face.version}
        if template in FREE:
            return {}
        start = time.monotonic()
        given = {"c": collection, "b": body or {}, "w": query.get("wait") == "true"}
        name, takes = ROUTES[self.command, template]
        with self.face.lock:
            self.face.active += 1
        try:
            result = getattr(store, name)(*(given[one] for one in takes))
        finally:
            with self.face.lock:
                self.face.active -= 1
        return {"result": result, "status": "ok", "time": time.monotonic() - start}

    def _control(self, path: str, wish: dict) -> None:
        if path == "/_face/set":
            self.face.set(wish)
        elif path == "/_face/reset":
            self.face.empty()
            self.face.forget()
        self._give(200, json.dumps(self.face.state()).encode())

    def handle_one_request(self) -> None:
        """Serve a request; a caller that went away is no fault of ours."""
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError, ssl.SSLError):
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    allow_reuse_address = True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key")
    parser.add_argument("--read-only-key")
    parser.add_argument("--version", default="1.19.0")
    parser.add_argument("--openapi", type=Path)
    parser.add_argument("--cert", type=Path, help="PEM of certificate and key: speak TLS")
    options = parser.parse_args()
    Handler.face = face = Face(options)
    port = options.port
    while True:
        server = Server(("127.0.0.1", port), Handler)
        if port != server.server_port or options.port == port:
            print(f"ready {server.server_port}", flush=True)  # noqa: T201 - the parent reads it
        port, options.port = server.server_port, None
        if options.cert is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(options.cert)
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        server.timeout = 0.05
        while time.monotonic() >= face.down_until:
            server.handle_request()
        server.server_close()  # refused until the time is over
        time.sleep(max(0.0, face.down_until - time.monotonic()))


if __name__ == "__main__":
    main()
