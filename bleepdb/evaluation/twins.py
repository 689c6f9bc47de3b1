"""Near-duplicate sections: the same tissue under two names, which would answer for itself.

By counts: spots of one section are held against those of the other on the genes that both
measured. For a spot with counts a and one with counts b, s being the ratio of their totals, the
sum over genes of

    (a s - b)^2 / (s (a + b))

is on average 1 for each gene that either counted, where b is another draw from the same tissue
(the two-sample test of Poisson counts, given a + b), and more where the tissue differs. It is 0
for the same counts, and (1 - p) / (1 + p) where b keeps each count of a with probability p. So a
copy is told from a neighbour, or from the next section of the block, by what no tissue can share:
the noise of its counts. Names of spots and genes that one side lacks do not matter.

By picture: the slides' detail (small pictures without their broad shading) correlates, turned and
mirrored in all eight ways, and spots of both lie at the same places of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from bleepdb.errors import InputError
from bleepdb.files import digest
from bleepdb.places import spacing
from bleepdb.tissue.slides import open_slide

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import scipy.sparse as sp
    from numpy.typing import NDArray

    from bleepdb.panel import Panel
    from bleepdb.splits import Split
    from bleepdb.tissue import Section

SPOTS: Final = 64
"""Spots of the smaller section that are looked for in the larger."""
CANDIDATES: Final = 5
GENES: Final = 1000
"""Genes by which candidates are found; the test itself takes all that both have."""
SAME_NOISE: Final = 0.5
"""Mean test value of a spot below which it is a copy: it keeps a third of the counts or more."""
FEWEST_COUNTED: Final = 30
"""Genes that a pair of spots must have counted for its test to say anything."""
SHARE: Final = 0.1
FEWEST_SPOTS: Final = 3
SIDE_PX: Final = 64
BROAD_PX: Final = 3.0
FINE_PX: Final = 0.7
SAME_PICTURE: Final = 0.6
"""Correlation of detail. JPEG and rescaling leave 0.99; serial sections have less than
0.3 (measured on four real ones)."""


class Counted(Protocol):
    """What is compared: a `Section`, or a `PairedSection`."""

    @property
    def section(self) -> str:
        """Its name."""

    @property
    def counts(self) -> sp.csr_matrix:
        """(spots, genes) CSR, raw."""

    @property
    def panel(self) -> Panel:
        """Genes of the columns."""


@dataclass(frozen=True)
class Twins:
    """Two sections that are one.

    Attributes
    ----------
    first, second
        Their names, in the order of the sheet.
    why
        One clause.
    """

    first: str
    second: str
    why: str


def pairs_across(folds: Iterable[Split]) -> set[frozenset[str]]:
    """Return the pairs of sections of which one trains where the other tests."""
    return {frozenset((a, b)) for f in folds for a in f.train for b in f.test}


def allowed_twins(texts: Sequence[str], known: Sequence[str]) -> frozenset[frozenset[str]]:
    """Read ``A=B`` pairs that a person allows.

    Raises
    ------
    InputError
        If one is no pair of known sections; all faults in one line.
    """
    made, faults = [], []
    for text in texts:
        pair = frozenset(name.strip() for name in text.split("="))
        unknown = sorted(pair - set(known))
        if len(pair) != 2 or "" in pair:
            faults.append(f"{text!r} names no two sections")
        elif unknown:
            faults.append(f"{text!r}: no section {', '.join(unknown)}")
        made.append(pair)
    if faults:
        raise InputError(
            f"--allow-twins {' | '.join(faults)}",
            hint=f"write A=B; there is {', '.join(known)}",
        )
    return frozenset(made)


def refuse_twins(
    sections: Sequence[Counted],
    across: Iterable[frozenset[str]] | None = None,
    *,
    allowed: frozenset[frozenset[str]] = frozenset(),
) -> None:
    """Refuse sections with the same counts, and near-duplicates of which one trains.

    Parameters
    ----------
    sections
        All of them.
    across
        Pairs that stand on two sides of a split; None for all. The very same counts are refused
        wherever they stand.
    allowed
        Pairs that may be.

    Raises
    ------
    InputError
        Naming all of them in one line.
    """
    seen: dict[str, str] = {}
    for section in sections:
        counts = section.counts
        parts = (counts.indptr, counts.indices, counts.data)
        mark = digest(*(np.asarray(p).astype("<i8").tobytes() for p in parts))
        if mark in seen and frozenset((seen[mark], section.section)) not in allowed:
            raise InputError(
                f"sections {seen[mark]} and {section.section} hold the same counts",
                hint="keep one of them: held out, it would be found in training under another name",
            )
        seen.setdefault(mark, section.section)
    wanted = None if across is None else set(across)
    raise_twins(
        found
        for a, b in combinations(sections, 2)
        if (wanted is None or frozenset((a.section, b.section)) in wanted)
        and frozenset((a.section, b.section)) not in allowed
        and (found := twins_by_counts(a, b)) is not None
    )


def refuse_same_pictures(
    sections: Sequence[Section],
    across: Iterable[frozenset[str]],
    *,
    allowed: frozenset[frozenset[str]] = frozenset(),
) -> None:
    """Refuse sections across a split whose slides show the same places.

    Raises
    ------
    InputError
        Naming all of them in one line.
    """
    wanted = set(across)
    pictures = {s.section: Picture.of(s) for s in sections if s.slide_path is not None}
    raise_twins(
        found
        for a, b in combinations(pictures, 2)
        if frozenset((a, b)) in wanted
        and frozenset((a, b)) not in allowed
        and (found := twins_by_picture(pictures[a], pictures[b])) is not None
    )


def raise_twins(found: Iterable[Twins]) -> None:
    """Raise one error that names all twins.

    Raises
    ------
    InputError
        Where there are any.
    """
    every = list(found)
    if every:
        text = " | ".join(f"{t.first} and {t.second} ({t.why})" for t in every)
        first = every[0]
        raise InputError(
            f"near-duplicate sections on two sides of a split: {text}",
            hint="leave one of them out (--exclude-section), or allow it with --allow-twins "
            f"{first.first}={first.second}",
        )


def twins_by_counts(first: Counted, second: Counted) -> Twins | None:
    """Look for spots of the smaller section in the larger.

    Returns
    -------
    Twins or None
        Twins where a tenth of the spots that are looked for, and at least three, are copies.
    """
    shared = first.panel.match(second.panel)
    if len(shared.left) < FEWEST_COUNTED:
        return None
    a, b = first.counts[:, shared.left], second.counts[:, shared.right]
    if a.shape[0] > b.shape[0]:
        a, b = b, a
    deep = np.flatnonzero(np.diff(a.indptr) >= FEWEST_COUNTED)
    if len(deep) < FEWEST_SPOTS:
        return None
    rows = deep[np.unique(np.linspace(0, len(deep) - 1, SPOTS).astype(int))]
    copies = same_noise(a[rows], b)
    found = int(copies.sum())
    if found < max(FEWEST_SPOTS, SHARE * len(rows)):
        return None
    return Twins(
        first.section,
        second.section,
        f"{found} of {len(rows)} spots that were looked for have the same counts, or nearly",
    )


def same_noise(spots: sp.csr_matrix, among: sp.csr_matrix) -> NDArray[np.bool_]:
    """Tell which spots are copies of one among others, by what their counts share in noise.

    Parameters
    ----------
    spots, among
        (n, genes) and (m, genes) counts on the same genes.

    Returns
    -------
    numpy.ndarray
        (n,) bool.
    """
    total = np.asarray(among.sum(axis=0)).ravel()
    top = np.sort(np.argsort(-total, kind="stable")[:GENES])
    x, y = _shape(spots[:, top]), _shape(among[:, top])
    centre = y.mean(axis=0)
    alike = _unit(x - centre) @ _unit(y - centre).T
    few = min(CANDIDATES, alike.shape[1])
    best = np.argpartition(-alike, few - 1, axis=1)[:, :few]
    made = np.zeros(len(x), dtype=bool)
    for number in range(len(x)):
        a = spots[number].toarray().ravel().astype(np.float64)
        for other in best[number]:
            b = among[other].toarray().ravel().astype(np.float64)
            counted = (a + b) > 0
            if counted.sum() < FEWEST_COUNTED or not b.sum():
                continue
            s = b.sum() / a.sum()
            test = (a[counted] * s - b[counted]) ** 2 / (s * (a[counted] + b[counted]))
            made[number] |= bool(test.mean() < SAME_NOISE)
    return made


def _shape(counts: sp.csr_matrix) -> NDArray[np.float32]:
    """Square roots of shares, whose noise is alike for all genes (Hellinger)."""
    dense = counts.toarray().astype(np.float32)
    return np.asarray(np.sqrt(dense / np.maximum(dense.sum(axis=1, keepdims=True), 1)))


def _unit(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12))


@dataclass(frozen=True)
class Picture:
    """A slide's detail, and the places of a section's spots on it.

    Attributes
    ----------
    section
        Its name.
    path
        The slide.
    detail
        (SIDE_PX, SIDE_PX) float64, mean 0 and norm 1.
    places
        (spots, 2) x and y as shares of width and height.
    spacing
        Distance of adjacent spots as such a share.
    """

    section: str
    path: Path
    detail: NDArray[np.float64]
    places: NDArray[np.float64]
    spacing: float

    @classmethod
    def of(cls, section: Section) -> Picture:
        """Read the small picture of a section's slide."""
        assert section.slide_path is not None  # noqa: S101 - the caller asks for those with one
        with open_slide(section.slide_path, mpp=section.slide_mpp) as slide:
            small = slide.thumbnail(8 * SIDE_PX)
            size = np.asarray(slide.size_px, dtype=np.float64)
        places = section.xy_px / size
        near = spacing(places) if len(places) > 1 else 0.0
        return cls(section.section, section.slide_path, detail_of(small), places, near)


def detail_of(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return a small square grey picture without its broad shading, mean 0 and norm 1.

    Parameters
    ----------
    rgb
        (h, w, 3) uint8.
    """
    grey = Image.fromarray(rgb).convert("L").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    values = np.asarray(grey, dtype=np.float64)
    fine = ndimage.gaussian_filter(values, FINE_PX) - ndimage.gaussian_filter(values, BROAD_PX)
    fine -= fine.mean()
    return np.asarray(fine / max(float(np.linalg.norm(fine)), 1e-9))


def likeness(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, int]:
    """Return the best correlation of two details over the eight orientations, and which."""
    found = [float((first * turned(second, way)).sum()) for way in range(8)]
    return max(found), int(np.argmax(found))


def turned(picture: NDArray[Any], way: int) -> NDArray[Any]:
    """Return a square picture turned by ``way % 4`` quarters, mirrored before from 4 on."""
    return np.rot90(picture[:, ::-1] if way >= 4 else picture, way % 4)


def _places_turned(places: NDArray[np.float64], way: int) -> NDArray[np.float64]:
    """Turn places as `turned` turns the picture that they are on."""
    x, y = places[:, 0], places[:, 1]
    if way >= 4:
        x = 1 - x
    for _ in range(way % 4):
        x, y = y, 1 - x
    return np.stack([x, y], axis=1)


def twins_by_picture(first: Picture, second: Picture) -> Twins | None:
    """Tell whether two sections lie at the same places of the same picture.

    Sections that were cut out of one slide lie at other places of it, and are no twins.
    """
    alike, way = likeness(first.detail, second.detail)
    if alike < SAME_PICTURE:
        return None
    there = _places_turned(second.places, way)
    reach = max(first.spacing, second.spacing, 1 / SIDE_PX)
    a, b = (first.places, there) if len(first.places) <= len(there) else (there, first.places)
    near = float((np.asarray(cKDTree(b).query(a)[0]) <= reach).mean())
    if near < SHARE:
        return None
    return Twins(
        first.section,
        second.section,
        f"the same places of one picture: {first.path.name} and {second.path.name}",
    )
