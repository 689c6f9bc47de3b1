"""The cohort table: what was imputed on many slides, one row a slide and gene (Parquet).

It is made from the imputed files themselves, a block of genes of one slide at a time, so that
percentiles are exact and memory does not grow with the number of slides. Each slide is a row group
of its own: a table that is there already is taken over slide by slide, as long as its slide's file
is still the same one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bleepdb import names
from bleepdb.errors import InputError
from bleepdb.files import cache_dir, canonical_json, digest, whole_file
from bleepdb.querying.resuming import read_card
from bleepdb.tissue.readers.hdf5 import open_hdf5

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from numpy.typing import NDArray

PERCENTILES: Final = (5, 25, 50, 75, 95)
BLOCK_BYTES: Final = 2**28
GENES_AT_ONCE: Final = 256  # as wide as the chunks of an imputed file
LEAST_AT_ONCE: Final = 16
FORMAT: Final = "bleepdb-cohort"
VERSION: Final = 2
PARTS: Final = "cohort*.parquet"

SCHEMA: Final = pa.schema(
    [
        ("slide", pa.string()),
        ("gene", pa.string()),
        ("gene_id", pa.string()),
        ("mean", pa.float32()),
        *((f"p{p:02d}", pa.float32()) for p in PERCENTILES),
        ("measured_share", pa.float32()),
        (names.PCC, pa.float32()),
        (names.NOISE_CEILING, pa.float32()),
        (names.PREDICTABLE, pa.bool_()),
        ("tiles", pa.int64()),
        ("ood_share", pa.float32()),
        (names.EFFECTIVE_DONORS, pa.float32()),
        (names.EFFECTIVE_NEIGHBOURS, pa.float32()),
        (names.TOP_SIMILARITY, pa.float32()),
        (names.DONOR, pa.string()),
        ("slide_mpp", pa.float64()),
        ("generation", pa.int64()),
        ("run", pa.string()),
    ],
    metadata={"format": FORMAT, "version": str(VERSION)},
)


@dataclass(frozen=True)
class Summary:
    """What is told of each gene of a slide, over its tiles.

    Attributes
    ----------
    mean
        (genes,) float32 over the tiles that have a value; NaN where none has.
    percentiles
        (genes, `PERCENTILES`) float32, linear between order statistics; NaN likewise.
    measured_share
        (genes,) float32: share of the tiles that have a value; NaN where there is no tile.
    """

    mean: NDArray[np.float32]
    percentiles: NDArray[np.float32]
    measured_share: NDArray[np.float32]


def summary_of(values: NDArray[np.float32]) -> Summary:
    """Summarise (tiles, genes) float32; NaN is no value."""
    n, genes = values.shape
    there = np.isfinite(values).sum(axis=0)
    ordered = np.sort(values, axis=0)  # NaN stands last
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(values, axis=0, dtype=np.float64) / there
        share = there / n if n else np.full(genes, np.nan)
    made = np.full((genes, len(PERCENTILES)), np.nan, np.float32)
    some = np.flatnonzero(there)
    for column, percent in enumerate(PERCENTILES):
        place = (there[some] - 1) * (percent / 100)
        low = np.floor(place).astype(np.int64)
        high = np.minimum(low + 1, there[some] - 1)
        below, above = (ordered[k, some].astype(np.float64) for k in (low, high))
        made[some, column] = below + (above - below) * (place - low)
    return Summary(mean.astype(np.float32), made, share.astype(np.float32))


def run_of(card: dict[str, Any]) -> str:
    """Return which run an imputed file is of: 32 hex digits, told by its run card."""
    return digest("run", canonical_json(card))[:32]


def cohort_rows(path: Path) -> pa.Table:
    """Return the rows of one imputed file, as `SCHEMA` says.

    Raises
    ------
    InputError
        If it is no file of `bleepdb query`, or damaged.
    """
    card = read_card(path)
    facts = card["facts"]
    with open_hdf5(path, "imputed") as file:
        x = file["X"]
        n, genes = x.shape
        step = int(np.clip(BLOCK_BYTES // (4 * max(n, 1)), LEAST_AT_ONCE, GENES_AT_ONCE))
        parts = [summary_of(x[:, at : at + step]) for at in range(0, genes, step)]
        symbols = _texts(file["var"], str(file["var"].attrs["_index"]))
        ids = _texts(file["var"], names.GENE_IDS)
        scores = _held_out(file["var"], genes)
        of_slide = {
            "ood_share": _share_unfamiliar(file["obs"]),
            **{
                name: _median(file["obs"], name)
                for name in (
                    names.EFFECTIVE_DONORS, names.EFFECTIVE_NEIGHBOURS, names.TOP_SIMILARITY
                )
            },
        }  # fmt: skip
    percentiles = np.concatenate(
        [np.zeros((0, len(PERCENTILES)), np.float32), *(p.percentiles for p in parts)]
    )
    none = np.zeros(0, np.float32)
    return pa.table(
        {
            "slide": pa.array([path.stem] * genes, pa.string()),
            "gene": symbols,
            "gene_id": ids,
            "mean": np.concatenate([none, *(p.mean for p in parts)]),
            **{f"p{p:02d}": percentiles[:, i] for i, p in enumerate(PERCENTILES)},
            "measured_share": np.concatenate([none, *(p.measured_share for p in parts)]),
            **scores,
            "tiles": np.full(genes, n),
            **{name: np.full(genes, value, np.float32) for name, value in of_slide.items()},
            names.DONOR: pa.array([facts.get(names.DONOR)] * genes, pa.string()),
            "slide_mpp": np.full(genes, float(facts["slide_mpp"])),
            "generation": np.full(genes, int(facts["generation"])),
            "run": pa.array([run_of(card)] * genes, pa.string()),
        },
        schema=SCHEMA,
    )


def _texts(group: h5py.Group, name: str) -> list[str]:
    """Read a column of text; AnnData may keep it as codes into categories."""
    item = group[name]
    if isinstance(item, h5py.Group):
        if "categories" in item:
            categories = item["categories"].asstr()[()]
            return [str(categories[code]) if code >= 0 else "" for code in item["codes"][()]]
        return [str(v) for v in item["values"].asstr()[()]]
    return [str(v) for v in item.asstr()[()]]


def _held_out(var: h5py.Group, genes: int) -> dict[str, pa.Array]:
    """Held-out scores of each gene, as the file has them of its model's card; null where not."""
    made = {}
    for name in names.HELD_OUT_SCORES:
        kind = SCHEMA.field(name).type
        item = var.get(name)
        if isinstance(item, h5py.Dataset) and item.shape == (genes,):
            values = item[()].astype(bool if kind == pa.bool_() else np.float32)
            made[name] = pa.array(values, kind, from_pandas=True)
        else:
            made[name] = pa.nulls(genes, kind)
    return made


def _median(obs: h5py.Group, name: str) -> float:
    """Median over the tiles that know it."""
    values = np.asarray(obs[name][()], np.float64) if name in obs else np.zeros(0)
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else float("nan")


def _share_unfamiliar(obs: h5py.Group) -> float:
    """Share of the tiles that the atlas does not know; NaN where that is not known."""
    if names.OOD_SCORE not in obs or names.OOD not in obs:
        return float("nan")
    known = np.isfinite(obs[names.OOD_SCORE][()])
    return float(np.asarray(obs[names.OOD][()])[known].mean()) if known.any() else float("nan")


class CohortWriter:
    """Gathers the rows of slides in a file without a name; `finish` gives it one.

    Parameters
    ----------
    reuse
        Tables that may hold rows of the same slides.
    """

    def __init__(self, reuse: Iterable[Path] = ()) -> None:
        self._spool = TemporaryFile(dir=cache_dir())  # noqa: SIM115 - closed by `close`
        self._writer = pq.ParquetWriter(self._spool, SCHEMA)
        self._reuse = [r for p in reuse if (r := _Reusable.of(p)) is not None]
        self.slides = 0

    def add(self, path: Path) -> None:
        """Add the rows of an imputed file.

        Raises
        ------
        InputError
            If it cannot be used.
        """
        run = run_of(read_card(path))
        found = next((t for r in self._reuse if (t := r.get(path.stem, run)) is not None), None)
        rows = cohort_rows(path) if found is None else found
        self._writer.write_table(rows, row_group_size=max(len(rows), 1))
        self.slides += 1

    def finish(self, path: Path) -> None:
        """Write what was gathered, whole or not at all."""
        self._writer.close()
        self._spool.flush()
        self._spool.seek(0)
        with whole_file(path) as part, part.open("wb") as file:
            shutil.copyfileobj(self._spool, file)

    def close(self) -> None:
        """Let go of the file. Closing twice is fine."""
        self._writer.close()
        self._spool.close()
        for one in self._reuse:
            one.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Reusable:
    """A cohort table whose row groups are single slides."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self._groups: dict[tuple[str, str], int] = {}
        for group in range(file.num_row_groups):
            head = file.read_row_group(group, columns=["slide", "run"])
            slides, runs = (head[name].unique().to_pylist() for name in ("slide", "run"))
            if len(slides) == len(runs) == 1:
                self._groups[slides[0], runs[0]] = group

    @classmethod
    def of(cls, path: Path) -> _Reusable | None:
        """Open a table; None where it is none of ours, or damaged."""
        try:
            file = pq.ParquetFile(path)
            if not file.schema_arrow.equals(SCHEMA, check_metadata=True):
                file.close()
                return None
            return cls(file)
        except (OSError, pa.ArrowException):
            return None

    def get(self, slide: str, run: str) -> pa.Table | None:
        """Return the rows of a slide's run; None where they are not here."""
        group = self._groups.get((slide, run))
        try:
            return None if group is None else self._file.read_row_group(group)
        except (OSError, pa.ArrowException):
            return None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


@dataclass(frozen=True)
class Merged:
    """What a merged cohort table holds.

    Attributes
    ----------
    slides
        Names, in order.
    left_out
        Name and reason of each file that is no imputed slide.
    """

    slides: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]


def merge_cohort(
    folder: Path, out: Path, *, progress: Callable[[int, int], None] | None = None
) -> Merged:
    """Write the cohort table of all imputed slides in a folder.

    Rows of tables that lie there (``cohort*.parquet``, such as those of shards) are taken over
    where they are of the very file that lies there now; else they are made from it.

    Raises
    ------
    InputError
        If the folder holds no imputed slide.
    """
    if not folder.is_dir():
        raise InputError(
            "no such folder", where=folder, hint="name what `bleepdb query` wrote to with --out"
        )
    files = sorted(p for p in folder.glob("*.h5ad") if not p.name.startswith("."))
    slides: list[str] = []
    left_out: list[tuple[str, str]] = []
    with CohortWriter(cohort_parts(folder)) as made:
        for done, path in enumerate(files):
            try:
                made.add(path)
                slides.append(path.stem)
            except InputError as error:
                left_out.append((path.name, error.what))
            if progress is not None:
                progress(done + 1, len(files))
        if not slides:
            raise InputError(
                "holds no imputed slide", where=folder, hint="name a folder of `bleepdb query`"
            )
        made.finish(out)
    return Merged(tuple(slides), tuple(left_out))


def cohort_parts(folder: Path) -> Sequence[Path]:
    """Return the cohort tables in a folder, the newest first."""
    return sorted(folder.glob(PARTS), key=lambda p: p.stat().st_mtime, reverse=True)
