"""Made-up sections for the tests of the atlas, and the process that the kill test kills."""

from __future__ import annotations

import sys
from functools import cache

import numpy as np

from bleepdb.atlas import (
    CollectionSpec,
    LiveSection,
    Manifest,
    Points,
    expression_fields,
    open_atlas,
    point_id,
    prepare_collection,
    publish_section,
    put_panel,
    vector_crc,
)
from bleepdb.files import digest
from bleepdb.names import KEYWORD_FIELDS, collection_name
from bleepdb.panel import Panel

SPACE = digest("space")
COLLECTION = collection_name("breast", SPACE)
ALIAS = "bleepdb_breast"
DIMENSION = 8
FIELDS = (*KEYWORD_FIELDS, "stage")


@cache
def panel(genes: int = 60) -> Panel:
    return Panel(tuple(f"GENE{i}" for i in range(genes)))


def spec(dimension: int = DIMENSION, fields: tuple[str, ...] = FIELDS) -> CollectionSpec:
    vectors = {"image": dimension, "expression": dimension}
    return CollectionSpec(COLLECTION, ALIAS, vectors, fields)


def manifest(**changes) -> Manifest:
    given = {
        "collection": COLLECTION,
        "tissue": "breast",
        "species": "human",
        "space_id": SPACE,
        "model_digest": digest("model"),
        "key": "image",
        "vectors": {"image": DIMENSION, "expression": DIMENSION},
        "keyword_fields": FIELDS,
    }
    return Manifest(**{**given, **changes})


def unit(rng, rows: int, dimension: int = DIMENSION) -> np.ndarray:
    made = rng.normal(size=(rows, dimension))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def revision(name: str, version: int) -> str:
    return digest("revision", name, str(version))


def counts_of(name: str, version: int, spots: int, genes: int = 60) -> np.ndarray:
    rng = np.random.default_rng([version, *name.encode()])
    return rng.poisson(0.8, size=(spots, genes))


def section(
    name: str,
    version: int = 0,
    *,
    spots: int = 30,
    donor: str = "D1",
    on: Panel | None = None,
    batch: int = 10,
    dimension: int = DIMENSION,
    **fields: str,
) -> tuple[LiveSection, list[Points]]:
    """A section's entry in the manifest and its points; another version has other content."""
    genes = on or panel()
    rng = np.random.default_rng([version + 1, *name.encode()])
    image, expression = unit(rng, spots, dimension), unit(rng, spots, dimension)
    counts = counts_of(name, version, spots, len(genes))
    rev = revision(name, version)
    payloads = []
    for i in range(spots):
        expressed = np.flatnonzero(counts[i])
        payloads.append(
            {
                "rev": rev,
                "section": name,
                "donor": donor,
                "species": "human",
                "tissue": "breast",
                "assay": "visium",
                "barcode": f"spot-{i}",
                "x_px": float(10 * i),
                "y_px": float(7 * i),
                "panel": genes.digest,
                "library_total": int(counts[i].sum()) + 5,
                "vcrc": vector_crc({"image": image[i], "expression": expression[i]}),
                **expression_fields(expressed, counts[i][expressed]),
                **fields,
            }
        )
    ids = [point_id(name, rev, p["barcode"]) for p in payloads]
    batches = [
        Points(
            ids[a : a + batch],
            {"image": image[a : a + batch], "expression": expression[a : a + batch]},
            payloads[a : a + batch],
        )
        for a in range(0, spots, batch)
    ]
    live = LiveSection(name, rev, spots, donor, digest(name, str(version)), {"source": "made"})
    return live, batches


def prepare(atlas, **changes) -> Manifest:
    made = prepare_collection(atlas, spec(), manifest(**changes), actor="test")
    put_panel(atlas, COLLECTION, panel())
    return made


def publish(atlas, name: str, version: int = 0, **kwargs):
    live, batches = section(name, version, **kwargs)
    return publish_section(atlas, COLLECTION, live, batches, actor="test")


def joined(batches: list[Points]) -> Points:
    return Points(
        [i for b in batches for i in b.ids],
        {n: np.concatenate([b.vectors[n] for b in batches]) for n in batches[0].vectors},
        [p for b in batches for p in b.payloads],
    )


KILL_SECTIONS = 3
KILL_SPOTS = 400


def publish_for_ever(folder: str, start: int) -> None:
    """Replace three sections in turn until killed, saying so before and after each commit."""
    with open_atlas(folder, create=True) as atlas:
        prepare(atlas)
        for version in range(start, 10_000):
            name = f"S{version % KILL_SECTIONS}"
            made = section(name, version, spots=KILL_SPOTS, batch=100)
            print(f"begin {name} {version}", flush=True)  # noqa: T201 - the parent reads it
            publish_section(atlas, COLLECTION, *made, actor="child")
            print(f"done {name} {version}", flush=True)  # noqa: T201 - the parent reads it


if __name__ == "__main__":
    publish_for_ever(sys.argv[1], int(sys.argv[2]))
