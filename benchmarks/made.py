"""Made spots and embeddings that the benchmarks share; the seed is fixed.

Counts are negative binomial around 20 regions, with a median of about 2,700 expressed genes of
18,000, so that the entropy of what made them is known. Embeddings are clustered as tissue is: 20
regions, each a smooth 12-dimensional manifold with noise in 256 dimensions; queries lie on the
same manifolds, off by a gap, as images do that were embedded by another tower.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.stats import nbinom

from bleepdb.atlas import (
    CollectionSpec,
    LiveSection,
    Manifest,
    Points,
    expression_fields,
    point_id,
    prepare_collection,
    publish_section,
    put_panel,
    vector_crc,
)
from bleepdb.files import digest
from bleepdb.names import KEYWORD_FIELDS
from bleepdb.panel import Panel

SEED = 20260
GENES, REGIONS, DIMENSION, MANIFOLD = 18_000, 20, 256, 12
SIZE = 2.0  # of the negative binomial: overdispersion
DISTINCT = 5_000  # profiles; a larger atlas repeats them under ids of their own
SPACE = digest("bench")
NAME, ALIAS = "bleepdb_bench_00000000", "bleepdb_bench"
SECTION_SPOTS = 5_000
KEY = "image"


def timed(function, *arguments, **named):
    """The value of a call and the seconds that it took."""
    start = time.perf_counter()
    value = function(*arguments, **named)
    return value, time.perf_counter() - start


def spots(n=DISTINCT, entropy_of=200):
    """Distinct spots as (genes, counts), genes ordered by mean, and the entropy in bytes a spot.

    The entropy is the mean of -log2 of the probability of each spot under the distributions that
    it was drawn from: no lossless code that does not know more can be shorter in the mean.
    """
    rng = np.random.default_rng(SEED)
    base = np.sort(np.exp(rng.normal(0, 1.55, GENES)))[::-1]
    base /= base.sum()
    profile = base * np.exp(rng.normal(0, 0.5, (REGIONS, GENES)))
    profile /= profile.sum(axis=1, keepdims=True)
    made, bits = [], []
    for i in range(n):
        mean = rng.lognormal(np.log(5200), 0.45) * profile[rng.integers(REGIONS)]
        drawn = rng.poisson(rng.gamma(SIZE, mean / SIZE))
        genes = np.flatnonzero(drawn)
        made.append((genes.astype(np.uint16), drawn[genes].astype(np.uint16)))
        if i < entropy_of:
            bits.append(-nbinom.logpmf(drawn, SIZE, SIZE / (SIZE + mean)).sum() / np.log(2))
    return made, float(np.mean(bits)) / 8


def embeddings(references, queries=3_000):
    """(references, 256) and (queries, 256) float32 unit vectors."""
    rng = np.random.default_rng(SEED + 1)
    centre = rng.normal(0, 1, (REGIONS, DIMENSION))
    basis = rng.normal(0, 1, (REGIONS, MANIFOLD, DIMENSION)) / np.sqrt(MANIFOLD)
    gap = rng.normal(0, 0.3, DIMENSION)

    def placed(n, spread, noise, shift):
        region = rng.integers(0, REGIONS, n)
        within = rng.normal(0, spread, (n, MANIFOLD))
        rows = np.empty((n, DIMENSION), np.float32)
        for r in range(REGIONS):
            mine = region == r
            rows[mine] = centre[r] + within[mine] @ basis[r] * 0.6 + shift
        rows += rng.normal(0, noise, rows.shape).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return placed(references, 1.0, 0.35, 0.0), placed(queries, 0.8, 0.25, gap)


def panel():
    return Panel(tuple(f"G{i}" for i in range(GENES)))


def spec():
    return CollectionSpec(NAME, ALIAS, {KEY: DIMENSION}, KEYWORD_FIELDS)


def section_points(fields, vectors, number, batch=1_000):
    """The live entry of one section and its batches of points."""
    start = number * SECTION_SPOTS
    rows = range(start, min(start + SECTION_SPOTS, len(vectors)))
    section, revision = f"s{number}", digest("revision", str(number))
    donor, held = f"d{number % 4}", panel().digest

    def payload(i):
        expression = fields[i % len(fields)]
        return {
            "rev": revision, "section": section, "donor": donor, "species": "human",
            "tissue": "bench", "assay": "made", "barcode": f"b{i}", "x_px": float(i % 70),
            "y_px": float(i // 70), "panel": held,
            "library_total": expression["total"],
            "vcrc": vector_crc({KEY: vectors[i]}),
        } | expression  # fmt: skip

    def batches():
        for first in range(rows.start, rows.stop, batch):
            part = range(first, min(first + batch, rows.stop))
            ids = [point_id(section, revision, f"b{i}") for i in part]
            yield Points(ids, {KEY: vectors[part.start : part.stop]}, [payload(i) for i in part])

    live = LiveSection(section, revision, len(rows), donor, digest("section", section))
    return live, batches()


def encoded(made):
    """Payload fields of each distinct spot."""
    return [expression_fields(genes, counts) for genes, counts in made]


class Fields:
    """The same, encoded anew whenever they are asked for: for ingest, where encoding counts."""

    def __init__(self, made):
        self._made = made

    def __len__(self):
        return len(self._made)

    def __getitem__(self, i):
        return expression_fields(*self._made[i])


def fill(atlas, fields, vectors):
    """Publish all spots as sections, every check included; returns the collection's name."""
    manifest = Manifest(
        collection=NAME, tissue="bench", species="human", space_id=SPACE, model_digest=SPACE,
        key=KEY, vectors={KEY: DIMENSION},
    )  # fmt: skip
    prepare_collection(atlas, spec(), manifest, actor="bench")
    put_panel(atlas, NAME, panel())
    for number in range(-(-len(vectors) // SECTION_SPOTS)):
        publish_section(atlas, NAME, *section_points(fields, vectors, number), actor="bench")
    return NAME


def identities(n):
    """The point id of each row, in the order of the vectors."""
    return [
        point_id(f"s{i // SECTION_SPOTS}", digest("revision", str(i // SECTION_SPOTS)), f"b{i}")
        for i in range(n)
    ]
