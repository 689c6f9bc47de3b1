"""Qdrant's REST bodies in terms of Qdrant Edge: what the test-only face answers with.

Each collection is one shard of the real engine in a folder of its own; names, aliases and settings
stand in `meta.json`. Only what bleepdb asks a server is here.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import uuid
from typing import TYPE_CHECKING

import numpy as np
import qdrant_edge as engine

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = {
    "cold": engine.Memory.Cold,
    "cached": engine.Memory.Cached,
    "pinned": engine.Memory.Pinned,
}
INDEXES = {
    "keyword": engine.PayloadSchemaType.Keyword,
    "integer": engine.PayloadSchemaType.Integer,
}
MODES = {
    "insert_only": engine.UpdateMode.InsertOnly,
    "update_only": engine.UpdateMode.UpdateOnly,
    "upsert": engine.UpdateMode.Upsert,
}


class RefusedError(Exception):
    """An answer that is an error: status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def point_id(given):
    try:
        return str(uuid.UUID(given))
    except (ValueError, AttributeError, TypeError):
        raise RefusedError(
            400, f"Format error in JSON body: {given!r} is no valid point ID"
        ) from None


def _condition(one):
    if "has_id" in one:
        return engine.HasIdCondition({point_id(i) for i in one["has_id"]})
    match = one.get("match") or {}
    if "key" in one and "any" in match:
        return engine.FieldCondition(one["key"], match=engine.MatchAny(match["any"]))
    if "key" in one and "value" in match:
        return engine.FieldCondition(one["key"], match=engine.MatchValue(match["value"]))
    raise RefusedError(400, f"Format error in JSON body: unknown condition {json.dumps(one)[:80]}")


def _filter(body):
    if not body:
        return None
    parts = {}
    for clause in ("must", "must_not"):
        given = body.get(clause) or []
        parts[clause] = [_condition(c) for c in (given if isinstance(given, list) else [given])]
    if set(body) - {"must", "must_not"}:
        raise RefusedError(400, f"Format error in JSON body: unknown clause in {sorted(body)}")
    return engine.Filter(**parts)


def _wanted(given, default):
    if isinstance(given, dict):
        return given["include"]
    return default if given is None else given


def _short(values):
    """Floats whose text is the shortest that names this float32, as the server writes them."""
    return [float(text) for text in np.asarray(values, dtype=np.float32).astype(str)]


def _record(found):
    made = {"id": str(found.id)}
    if found.payload is not None:
        made["payload"] = found.payload
    if found.vector is not None:
        made["vector"] = {name: _short(v) for name, v in found.vector.items()}
    return made


class Store:
    """All collections under one folder.

    Parameters
    ----------
    root
        The folder; what is there is served again after a restart.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._shards = {}
        self._operations = 0
        self._file = root / "meta.json"
        self._meta = {"collections": {}, "aliases": {}}
        if self._file.exists():
            self._meta = json.loads(self._file.read_text())

    def _save(self):
        part = self._file.with_suffix(".part")
        with part.open("w") as sink:
            json.dump(self._meta, sink)
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(self._file)

    def name(self, given):
        found = self._meta["aliases"].get(given, given)
        if found not in self._meta["collections"]:
            raise RefusedError(404, f"Not found: Collection `{given}` doesn't exist!")
        return found

    def shard(self, given):
        with self._lock:
            name = self.name(given)
            if name not in self._shards:
                folder = self.root / self._meta["collections"][name]["folder"]
                self._shards[name] = engine.EdgeShard.load(str(folder))
            return self._shards[name]

    def clear(self):
        with self._lock:
            for name in list(self._meta["collections"]):
                self.drop(name)

    # --- collections ------------------------------------------------------------------------------

    def collections(self):
        return {"collections": [{"name": name} for name in self._meta["collections"]]}

    def exists(self, given):
        name = self._meta["aliases"].get(given, given)
        return {"exists": name in self._meta["collections"]}

    def create(self, name, body):
        with self._lock:
            if name in self._meta["collections"]:
                raise RefusedError(409, f"Wrong input: Collection `{name}` already exists!")
            if name in self._meta["aliases"]:
                raise RefusedError(400, f"Bad request: alias with name {name} already exists")
            folder = uuid.uuid4().hex
            (self.root / folder).mkdir()
            hnsw = body.get("hnsw_config") or {}
            config = engine.EdgeConfig(
                vectors={
                    vector: engine.EdgeVectorParams(
                        size=p["size"], distance=getattr(engine.Distance, p["distance"])
                    )
                    for vector, p in body["vectors"].items()
                },
                payload_memory=MEMORY.get((body.get("payload") or {}).get("memory")),
                hnsw_config=engine.HnswIndexConfig(
                    m=hnsw.get("m", 16),
                    ef_construct=hnsw.get("ef_construct", 100),
                    full_scan_threshold=hnsw.get("full_scan_threshold", 10_000),
                ),
            )
            self._shards[name] = engine.EdgeShard.create(str(self.root / folder), config)
            self._meta["collections"][name] = {"folder": folder, "body": body}
            self._save()
        return True

    def patch(self, name, body):
        with self._lock:
            known = self._meta["collections"][self.name(name)]["body"]
            known["metadata"] = {**known.get("metadata", {}), **body.get("metadata", {})}
            self._save()
        return True

    def drop(self, name):
        with self._lock:
            if name not in self._meta["collections"]:
                return False
            shard = self._shards.pop(name, None)
            if shard is not None:
                shard.close()
            folder = self._meta["collections"].pop(name)["folder"]
            kept = {a: c for a, c in self._meta["aliases"].items() if c != name}
            self._meta["aliases"] = kept
            self._save()
            shutil.rmtree(self.root / folder, ignore_errors=True)
        return True

    def info(self, name):
        found = self.shard(name).info()
        body = self._meta["collections"][self.name(name)]["body"]
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
        config = {
            "params": {
                "vectors": body["vectors"],
                "shard_number": 1,
                "replication_factor": 1,
                "write_consistency_factor": 1,
                "on_disk_payload": body.get("on_disk_payload", True),
                "payload": body.get("payload"),
            },
            "hnsw_config": hnsw | (body.get("hnsw_config") or {}),
            "optimizer_config": {"default_segment_number": 0, "flush_interval_sec": 5},
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
            "metadata": body.get("metadata"),
        }
        schema = {
            key: {"data_type": str(one.data_type).rpartition(".")[2].lower(), "points": one.points}
            for key, one in found.payload_schema.items()
        }
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": found.indexed_vectors_count,
            "points_count": found.points_count,
            "segments_count": found.segments_count,
            "config": config,
            "payload_schema": schema,
        }

    def aliases(self, of=None):
        every = self._meta["aliases"].items()
        shown = [{"alias_name": a, "collection_name": c} for a, c in every if of is None or c == of]
        return {"aliases": shown}

    def change_aliases(self, body):
        with self._lock:
            made = dict(self._meta["aliases"])
            for action in body["actions"]:
                if "create_alias" in action:
                    wish = action["create_alias"]
                    if wish["collection_name"] not in self._meta["collections"]:
                        raise RefusedError(
                            404, f"Not found: Collection `{wish['collection_name']}` doesn't exist!"
                        )
                    if wish["alias_name"] in self._meta["collections"]:
                        raise RefusedError(409, "Wrong input: a collection has this name")
                    made[wish["alias_name"]] = wish["collection_name"]
                elif "delete_alias" in action:
                    made.pop(action["delete_alias"]["alias_name"], None)
                else:
                    raise RefusedError(400, "Format error in JSON body: unknown alias action")
            self._meta["aliases"] = made
            self._save()
        return True

    def index(self, name, body, wait):
        field, kind = body["field_name"], body["field_schema"]
        kind = kind["type"] if isinstance(kind, dict) else kind
        return self._update(
            name, engine.UpdateOperation.create_field_index(field, INDEXES[kind]), wait=wait
        )

    # --- points -----------------------------------------------------------------------------------

    def _update(self, name, operation, wait):
        shard = self.shard(name)
        with self._lock:
            self._operations += 1
            number = self._operations
            try:
                shard.update(operation)
            except Exception as error:
                if wait:  # without it the server says nothing of a batch that it drops
                    raise RefusedError(400, f"Wrong input: {error}") from error
        return {"operation_id": number, "status": "completed" if wait else "acknowledged"}

    def upsert(self, name, body, wait):
        points = [
            engine.Point(point_id(p["id"]), p["vector"], p.get("payload") or {})
            for p in body["points"]
        ]
        operation = engine.UpdateOperation.upsert_points(
            points,
            condition=_filter(body.get("update_filter")),
            update_mode=MODES.get(body.get("update_mode")),
        )
        return self._update(name, operation, wait)

    def delete(self, name, body, wait):
        if "filter" in body:
            operation = engine.UpdateOperation.delete_points_by_filter(_filter(body["filter"]))
        else:
            operation = engine.UpdateOperation.delete_points([point_id(i) for i in body["points"]])
        return self._update(name, operation, wait)

    def retrieve(self, name, body):
        ids = [point_id(i) for i in body["ids"]]
        vectors = bool(body.get("with_vector"))
        found = self.shard(name).retrieve(ids, _wanted(body.get("with_payload"), True), vectors)
        return [_record(one) for one in found]

    def scroll(self, name, body):
        offset = body.get("offset")
        found, after = self.shard(name).scroll(
            engine.ScrollRequest(
                offset=None if offset is None else point_id(offset),
                limit=body.get("limit") or 10,
                filter=_filter(body.get("filter")),
                with_payload=_wanted(body.get("with_payload"), True),
                with_vector=bool(body.get("with_vector")),
            )
        )
        offset = None if after is None else str(after)
        return {"points": [_record(one) for one in found], "next_page_offset": offset}

    def count(self, name, body):
        request = engine.CountRequest(
            exact=body.get("exact", True), filter=_filter(body.get("filter"))
        )
        return {"count": self.shard(name).count(request)}

    def facet(self, name, body):
        request = engine.FacetRequest(
            body["key"],
            limit=body.get("limit") or 10,
            exact=bool(body.get("exact")),
            filter=_filter(body.get("filter")),
        )
        try:
            hits = self.shard(name).facet(request).hits
        except Exception as error:  # the engine knows no narrower one
            raise RefusedError(400, f"Bad request: {error}") from error
        return {"hits": [{"value": h.value, "count": h.count} for h in hits]}

    def query_batch(self, name, body):
        requests = []
        for one in body["searches"]:
            given = one.get("params") or {}
            query = one["query"]
            query = query["nearest"] if isinstance(query, dict) else query
            requests.append(
                engine.QueryRequest(
                    limit=one.get("limit") or 10,
                    query=engine.Query.Nearest(query, using=one.get("using")),
                    filter=_filter(one.get("filter")),
                    params=engine.SearchParams(
                        hnsw_ef=given.get("hnsw_ef"), exact=bool(given.get("exact"))
                    ),
                    with_payload=False,
                    with_vector=False,
                )
            )
        try:
            found = self.shard(name).query_batch(engine.QueryBatchRequest(requests))
        except RefusedError:
            raise
        except Exception as error:  # the engine knows no narrower one
            raise RefusedError(400, f"Wrong input: {error}") from error
        answer = []
        for hits in found:
            scores = _short([h.score for h in hits])
            answer.append(
                {
                    "points": [
                        {"id": str(h.id), "version": h.version, "score": s}
                        for h, s in zip(hits, scores, strict=True)
                    ]
                }
            )
        return answer
