"""A copy is found under another name, whatever was done to it; the next section never is."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from PIL import Image

from bleepdb import datasets
from bleepdb.errors import InputError
from bleepdb.evaluation.twins import (
    SAME_PICTURE,
    Picture,
    allowed_twins,
    detail_of,
    likeness,
    pairs_across,
    refuse_same_pictures,
    refuse_twins,
    turned,
    twins_by_counts,
    twins_by_picture,
)
from bleepdb.panel import Panel
from bleepdb.splits import Split
from bleepdb.tissue import read_section, read_sheet
from bleepdb.tissue.slides import open_slide

GENES = 400


@dataclass(frozen=True)
class Counted:
    """Counts under a name."""

    section: str
    counts: sp.csr_matrix
    panel: Panel


def tissue(name, seed, *, depth=6.0, spots=120, rates=None):
    """Draw counts of a tissue whose rates differ from spot to spot."""
    rng = np.random.default_rng(seed)
    shared = np.random.default_rng(99)
    if rates is None:
        state = rng.normal(size=(spots, 3))
        rates = np.exp(shared.normal(0, 1.2, GENES) + state @ shared.normal(0, 0.5, (3, GENES)))
    drawn = rng.poisson(depth * rates)
    return Counted(name, sp.csr_matrix(drawn), Panel(tuple(f"G{i}" for i in range(GENES)))), rates


def thinned(counts, share, seed=0):
    made = counts.copy()
    made.data = np.random.default_rng(seed).binomial(made.data, share)
    made.eliminate_zeros()
    return made


@pytest.mark.parametrize("depth", [0.3, 6.0, 60.0])
def test_another_draw_from_the_very_same_tissue_is_no_twin(depth):
    """The hardest case: every rate is the same, and only the noise of counting differs."""
    first, rates = tissue("first", 1, depth=depth)
    second, _ = tissue("second", 2, depth=depth, rates=rates)
    assert twins_by_counts(first, second) is None
    refuse_twins([first, second])


@pytest.mark.parametrize("depth", [0.3, 6.0, 60.0])
@pytest.mark.parametrize(
    "change",
    ["none", "spots", "genes", "thinned", "half", "all of it"],
)
def test_a_copy_is_found_whatever_was_done_to_it(depth, change):
    first, _ = tissue("first", 1, depth=depth)
    counts, panel = first.counts, first.panel
    rng = np.random.default_rng(3)
    if change in ("spots", "all of it"):
        counts = counts[rng.permutation(120)[:40]]
    if change in ("genes", "all of it"):
        kept = rng.permutation(GENES)[:300]
        counts, panel = counts[:, kept], panel.take(kept)
    if change in ("thinned", "all of it"):
        counts = thinned(counts, 0.9)
    if change == "half":
        other, _ = tissue("other", 8, depth=depth)
        counts = sp.vstack([other.counts[:60], counts[:60]], format="csr")
    copy = Counted("copy", counts, panel)
    for a, b in ((first, copy), (copy, first)):
        found = twins_by_counts(a, b)
        assert found is not None
        assert (found.first, found.second) == (a.section, b.section)
    with pytest.raises(InputError, match=r"first and copy"):
        refuse_twins([first, copy])


def test_twins_matter_across_a_split_and_may_be_allowed_by_name():
    first, rates = tissue("first", 1)
    other, _ = tissue("other", 2, rates=rates)
    copy = replace(first, section="copy", counts=thinned(first.counts, 0.95))
    sections = [first, other, copy]
    inside = pairs_across([Split("f", ("first", "copy"), ("other",), "lists")])
    refuse_twins(sections, inside)
    across = pairs_across([Split("f", ("first",), ("copy", "other"), "lists")])
    with pytest.raises(InputError, match="--allow-twins first=copy"):
        refuse_twins(sections, across)
    refuse_twins(sections, across, allowed=allowed_twins(["copy=first"], ["first", "copy"]))
    same = replace(first, section="same")
    with pytest.raises(InputError, match="first and same hold the same counts"):
        refuse_twins([first, same], set())
    refuse_twins([first, same], set(), allowed=allowed_twins(["first=same"], ["first", "same"]))


def test_allowed_pairs_are_of_known_sections():
    with pytest.raises(InputError) as raised:
        allowed_twins(["a", "a=b=c", "a=x", "a=a"], ["a", "b"])
    text = str(raised.value)
    assert "'a' names no two sections" in text
    assert "'a=b=c'" in text
    assert "'a=x': no section x" in text
    assert "'a=a' names no two" in text


def picture(seed, size=(300, 360)):
    """Draw blobs that no turn maps onto themselves."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(60, 255, (size[0] // 6, size[1] // 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("way", range(8))
def test_a_picture_is_known_turned_rescaled_and_after_jpeg(way):
    first = picture(0)
    other = Image.fromarray(np.ascontiguousarray(turned(first, way)))
    other = other.resize((int(other.width * 0.6), int(other.height * 0.6)))
    data = io.BytesIO()
    other.save(data, "JPEG", quality=40)
    again = np.asarray(Image.open(data))
    found, orientation = likeness(detail_of(first), detail_of(again))
    assert found > 0.9
    np.testing.assert_array_equal(turned(turned(np.arange(9).reshape(3, 3), way), orientation),
                                  np.arange(9).reshape(3, 3))  # fmt: skip
    assert likeness(detail_of(first), detail_of(picture(1)))[0] < 0.4
    assert likeness(detail_of(first), detail_of(np.full((90, 90, 3), 200, np.uint8)))[0] < 0.1


@pytest.mark.parametrize("way", range(8))
def test_sections_of_one_slide_are_twins_at_the_same_places_alone(way):
    """Places turn with the picture; two pieces of tissue on one slide are two sections."""
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2)
    left, right = 0.05 + grid * 0.04, 0.55 + grid * 0.04
    first = Picture("first", Path("a.png"), detail_of(picture(0)), left, 0.04)
    detail = detail_of(np.ascontiguousarray(turned(picture(0), way)))
    x, y = left.T
    if way >= 4:
        x = 1 - x
    for _ in range(way % 4):
        x, y = y, 1 - x
    copy = Picture("copy", Path("b.png"), detail, np.stack([x, y], 1)[20:], 0.04)
    assert twins_by_picture(first, copy) is not None
    apart = replace(first, section="apart", places=right)
    assert twins_by_picture(first, apart) is None


def test_four_serial_sections_are_four_sections(her2st, tmp_path):
    """The real thing: and a copy of one of them under another name is found by both ways."""
    sheet = tmp_path / "samples.csv"
    sheet.write_text(datasets.her2st_sheet(her2st))
    sections = [read_section(row) for row in read_sheet(sheet)]
    refuse_twins(sections)
    pictures = [Picture.of(s) for s in sections]
    for a, b in combinations(pictures, 2):
        assert likeness(a.detail, b.detail)[0] < SAME_PICTURE / 2
    one = sections[1]
    with open_slide(one.slide_path) as slide:
        small, whole = Image.fromarray(slide.thumbnail(1200)), slide.size_px
    small.transpose(Image.Transpose.TRANSVERSE).save(tmp_path / "b.jpg", quality=60)
    x, y = (one.xy_px / whole).T
    turned_px = np.stack([(1 - y) * small.height, (1 - x) * small.width], axis=1)
    copy = replace(
        one, section="copy", donor="X", slide_path=tmp_path / "b.jpg", xy_px=turned_px,
        counts=thinned(one.counts, 0.9),
    ).take(np.arange(0, len(one), 3))  # fmt: skip
    across = {frozenset((one.section, "copy"))}
    with pytest.raises(InputError, match=f"{one.section} and copy.*same counts, or nearly"):
        refuse_twins([*sections, copy], across)
    with pytest.raises(InputError, match=f"{one.section} and copy.*same places of one picture"):
        refuse_same_pictures([*sections, copy], across)
