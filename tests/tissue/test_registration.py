"""A slide is held against the picture and the spots that it should belong to."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bleepdb.errors import SectionError, SlideError
from bleepdb.tissue import (
    Marks,
    TissueMask,
    check_registration,
    draw_overlay,
    load_section,
    open_slide,
    read_section,
    row_for,
    tissue_mask,
)
from bleepdb.tissue.overlay import FITTED, GIVEN, TISSUE
from bleepdb.tissue.registration import AS_STATED, ORIENTATIONS, Outline, Pose, pitch_of
from bleepdb.tissue.section import ReferenceImage

from . import made_tissue as made

WRONG = ORIENTATIONS[1:]


def reference_of(pixels, longer=600, where="tissue_hires_image.png"):
    small = made.resized(pixels, longer / max(pixels.shape))
    return ReferenceImage(where, longer / max(pixels.shape), lambda: small)


@pytest.fixture(scope="module")
def right():
    """Pixels, spots and the small picture of one made section."""
    pixels, tissue = made.made_slide()
    return pixels, made.spots_on(tissue), reference_of(pixels)


@pytest.fixture
def judge(tmp_path):
    """Check spots against pixels; give the registration, or the text of the refusal."""

    def check(pixels, xy_px, **options):
        with open_slide(made.saved(pixels, tmp_path / "slide.png")) as slide:
            try:
                return check_registration(xy_px, slide, **options)
            except SlideError as error:
                return str(error)

    return check


# --- poses ---------------------------------------------------------------------------------------


@given(
    turns=st.integers(0, 3),
    mirrored=st.booleans(),
    x=st.integers(0, 29),
    y=st.integers(0, 19),
)
def test_a_place_and_its_pixel_go_the_same_way(turns, mirrored, x, y):
    pixels = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint16)
    pose = Pose(turns, mirrored)
    turned = pose.picture(pixels)
    size = turned.shape[1::-1]
    ((to_x, to_y),) = pose.places(np.array([(x + 0.5, y + 0.5)]), size)
    np.testing.assert_array_equal(turned[int(to_y), int(to_x)], pixels[y, x])


def test_a_rescaled_place_keeps_its_share_of_the_slide():
    pose = Pose(1, True, 0.5, (3.0, -2.0))
    at = pose.places(np.array([(10.0, 40.0)]), (50, 30))  # of a picture of 60 x 100
    np.testing.assert_allclose(at, [(20 + 3, 5 - 2)])  # x and y exchanged, halved, moved
    assert str(pose).startswith("mirrored, x and y exchanged and rescaled to about 0.5 of the full")
    assert str(AS_STATED) == "as it should be"


# --- both witnesses, on a made section -----------------------------------------------------------


def test_the_right_slide_passes(right, judge):
    pixels, xy, reference = right
    seen = judge(pixels, xy, reference=reference)
    assert (seen.warning, seen.notes, seen.overlay) == (None, (), None)
    assert seen.detail > 0.9
    assert seen.on_tissue > 0.97


@pytest.mark.parametrize("pose", WRONG, ids=str)
def test_each_wrong_orientation_is_named_by_either_witness(right, judge, pose):
    pixels, xy, reference = right
    turned = pose.picture(pixels)
    assert f"the slide looks {pose}: only " in judge(turned, xy)
    everywhere = TissueMask(np.ones((10, 12), dtype=bool), 12 / turned.shape[1])
    said = judge(turned, xy, reference=reference, mask=everywhere)
    assert f"beside tissue_hires_image.png the slide looks {pose}; give the image" in said


@pytest.mark.parametrize(("factor", "spots_say"), [(0.5, "0.5"), (0.8, "0.794"), (2, "2")])
def test_a_rescaled_slide_is_named_by_either_witness(right, judge, factor, spots_say):
    pixels, xy, reference = right
    scaled = made.resized(pixels, factor)
    full = "of the full-resolution image that the positions refer to"
    assert f"looks rescaled to about {spots_say} {full}: " in judge(scaled, xy)
    said = judge(scaled, xy, reference=reference)
    assert (
        f"beside tissue_hires_image.png the slide looks rescaled to about {factor} {full}" in said
    )
    if factor < 1:
        said = judge(WRONG[4].picture(scaled), xy, reference=reference)
        assert f"looks {WRONG[4]} and rescaled to about {factor} {full}" in said


def test_a_slide_cropped_at_its_corner_is_told_by_how_much(right, judge):
    pixels, xy, reference = right
    said = judge(pixels[80:, 60:], xy, reference=reference)
    assert "looks moved by (-6" in said.replace("-59", "-6")
    assert judge(pixels[:900, :1050], xy, reference=reference).warning is None  # places stay


def test_a_few_pixels_are_no_shift(right, judge):
    pixels, xy, reference = right
    assert judge(pixels[4:, 4:], xy, reference=reference).warning is None


def test_another_section_of_the_same_outline_is_told_by_its_detail(right, judge):
    _, xy, reference = right
    other, _ = made.made_slide(seed=1)
    assert judge(other, xy).warning is None  # the spots cannot know
    said = judge(other, xy, reference=reference)
    assert "the slide shows something else than tissue_hires_image.png" in said


@pytest.mark.parametrize("change", ["darker", "grey", "blurred", "pale"])
def test_colour_and_sharpness_do_not_matter(right, judge, change):
    pixels, xy, _ = right
    changed = {
        "darker": lambda p: 255 * (p / 255.0) ** 1.7,
        "grey": lambda p: np.repeat(p.mean(axis=2, keepdims=True), 3, axis=2),
        "blurred": lambda p: made.ndimage.gaussian_filter(p, (2, 2, 0)),
        "pale": lambda p: 255 - (255.0 - p) * 0.5,
    }[change](pixels)
    seen = judge(pixels, xy, reference=reference_of(changed.astype(np.uint8)))
    assert seen.warning is None
    assert seen.detail > 0.8


def test_what_shows_nothing_is_said_to_be_unchecked(right, judge):
    pixels, xy, _ = right
    blank = np.full((500, 600, 3), 255, dtype=np.uint8)
    seen = judge(pixels, xy, reference=ReferenceImage("blank.png", 0.5, lambda: blank))
    assert seen.notes == ("registration is not checked against blank.png, which shows no detail",)
    assert (seen.warning, seen.detail) == (None, None)

    def broken():
        raise SectionError("not a readable picture")

    seen = judge(pixels, xy, reference=ReferenceImage("bad.png", 0.5, broken))
    assert seen.notes == ("registration is not checked against bad.png (not a readable picture)",)


def test_a_picture_too_small_to_tell_refuses_nothing(right, judge):
    pixels, xy, _ = right
    seen = judge(pixels, xy, reference=reference_of(pixels, longer=30, where="tiny.png"))
    assert seen.notes == (
        "registration is not checked against tiny.png, which is too small to tell",
    )
    assert (seen.warning, seen.detail) == (None, None)


# --- no false alarms -----------------------------------------------------------------------------


@pytest.mark.parametrize("pose", ORIENTATIONS, ids=str)
def test_tissue_that_fills_the_slide_has_no_outline(judge, pose):
    rng = np.random.default_rng(0)
    y, x = np.indices((600, 600))
    edge = (x > 585) & (y > 585)  # a corner of glass, for the threshold
    pixels = np.where(edge[..., None], 240, rng.normal((170, 90, 150), 15, (600, 600, 3)))
    xy = np.stack(np.meshgrid(np.arange(30, 570, 40), np.arange(30, 570, 40)), -1).reshape(-1, 2)
    seen = judge(pose.picture(np.clip(pixels, 0, 255).astype(np.uint8)), xy.astype(float))
    assert seen.warning is None


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=8)
def test_a_mask_that_loses_pale_tissue_never_refuses_the_right_slide(seed):
    rng = np.random.default_rng(seed)
    _, tissue = made.made_slide()
    xy = made.spots_on(tissue)
    y, x = np.indices(tissue.shape)
    for cx, cy in xy[rng.integers(0, len(xy), rng.integers(1, 5))]:
        tissue &= (x - cx) ** 2 + (y - cy) ** 2 > rng.uniform(30, 200) ** 2
    slide = _Frame((1200, 1000))
    seen = check_registration(xy, slide, mask=TissueMask(tissue, 1.0))
    assert seen.on_tissue > 0


class _Frame:
    """As much of a slide as a check with a mask and without a picture needs."""

    def __init__(self, size_px):
        self.size_px = size_px
        self.path = Path("frame.png")


def test_spots_on_pale_tissue_that_the_mask_lost_to_ink_are_only_warned_of(right, judge):
    pixels, xy, _ = right
    ink = np.zeros((100, 120), dtype=bool)
    ink[:, :8] = True
    seen = judge(pixels, xy, mask=TissueMask(ink, 0.1))
    assert seen.on_tissue == 0
    assert "yet the others are darker than glass; is there ink" in seen.warning
    glass = np.full_like(pixels, 236)
    assert f"none of {len(xy)} spots is on tissue; " in judge(glass, xy, mask=TissueMask(ink, 0.1))


def test_a_part_of_the_spots_passes(right, judge):
    pixels, xy, _ = right
    assert judge(pixels, xy[xy[:, 0] > 600]).warning is None


def test_spots_that_lie_in_a_corner_of_foreign_tissue_are_warned_of(right, judge):
    _, xy, _ = right
    other = np.array([(230, 60), (1190, 60), (1190, 660), (1000, 960), (230, 690)])
    seen = judge(made.made_slide(corners=other)[0], xy)
    assert 0.8 < seen.on_tissue < 0.95
    assert f"only {seen.on_tissue:.0%} of {len(xy)} spots are on tissue" in seen.warning


def test_spots_on_tissue_and_glass_alike_are_only_warned_of(right, judge):
    pixels, _, _ = right
    steps = [np.arange(24, n, 48.0) for n in (1200, 1000)]
    everywhere = np.stack(np.meshgrid(*steps), axis=-1).reshape(-1, 2)
    seen = judge(pixels, everywhere)
    assert seen.warning.count("spots are on tissue") == 1


# --- going on, and the picture -------------------------------------------------------------------


def test_a_misfit_that_is_allowed_is_warned_of_and_drawn(right, judge, tmp_path):
    pixels, xy, reference = right
    drawn = tmp_path / "deep" / "seen.png"
    seen = judge(Pose(2).picture(pixels), xy, reference=reference, allow_misfit=True, overlay=drawn)
    assert "looks turned by 180°" in seen.warning
    assert f"(drawn in {drawn})" in seen.warning
    assert seen.overlay == drawn
    with Image.open(drawn) as image:
        picture = np.asarray(image)
    for colour in (GIVEN, FITTED, TISSUE):
        assert (picture == colour).all(axis=2).sum() > 100


def test_a_refusal_names_the_picture_that_was_drawn(right, judge, own_cache):
    pixels, xy, _ = right
    said = judge(Pose(1).picture(pixels), xy)
    path = Path(said.split("drawn in ")[1].split(")")[0])
    assert path.parent == own_cache / "overlays"
    with Image.open(path) as picture:
        assert picture.size[0] >= 800
    assert "or go on with --allow-misfit" in said


def test_spots_outside_are_refused_whatever_is_allowed(right, judge):
    pixels, xy, _ = right
    said = judge(made.resized(pixels, 0.5), xy, allow_misfit=True)
    assert "spots lie outside the image of 600 x 500 px" in said
    assert "looks rescaled to about 0.5" in said


def test_a_place_to_draw_that_cannot_be_written_hides_nothing(right, judge, tmp_path):
    pixels, xy, _ = right
    (tmp_path / "file").write_text("")
    said = judge(Pose(1).picture(pixels), xy, overlay=tmp_path / "file" / "a.png")
    assert "looks turned by 90° counterclockwise" in said
    assert "no picture could be drawn" in said


def test_an_overlay_shows_tiles_where_they_are(right, tmp_path):
    pixels, _, _ = right
    with open_slide(made.saved(pixels, tmp_path / "slide.png")) as slide:
        mask = tissue_mask(slide)
        marks = [Marks(np.array([(600.0, 300.0)]), 100.0, "one tile", square=True)]
        draw_overlay(
            slide, tmp_path / "o.png", mask=mask, marks=marks, lines=["a line"], max_px=1200
        )
    with Image.open(tmp_path / "o.png") as image:
        picture = np.asarray(image)
    lines, columns = np.nonzero((picture[:1000] == GIVEN).all(axis=2))
    assert (columns.min(), columns.max()) == (pytest.approx(550, abs=1), pytest.approx(650, abs=1))
    assert (lines.min(), lines.max()) == (pytest.approx(250, abs=1), pytest.approx(350, abs=1))
    assert picture.shape[0] > 1000  # the legend lies below
    assert not (tmp_path / "o.png").with_suffix(".part").exists()


# --- through the readers -------------------------------------------------------------------------


def test_a_space_ranger_folder_knows_its_slide(make_outs, tmp_path):
    corners = np.array([(30, 30), (1050, 30), (1095, 400), (750, 720), (30, 720)])
    small, _ = made.made_slide(size=(1120, 1000), corners=corners)
    pixels = made.resized(small, 2)
    outs = make_outs()
    made.saved(made.resized(small, 0.5), outs / "spatial" / "tissue_hires_image.png")
    image = made.saved(pixels, tmp_path / "slide.png")

    def load(path, **options):
        row = row_for(outs, donor="P", tissue="breast", image=str(path))
        return load_section(row, min_counts=1, min_genes=1, **options)

    good = load(image, overlay=tmp_path / "good.png")
    assert good.warnings == ()
    assert (tmp_path / "good.png").is_file()
    flipped = made.saved(Pose(0, True).picture(pixels), tmp_path / "flipped.png")
    with pytest.raises(SlideError, match=r"tissue_hires_image\.png the slide looks mirrored left"):
        load(flipped)
    (said,) = load(flipped, allow_misfit=True).warnings
    assert "mirrored left to right" in said
    Image.new("RGB", (560, 500), "white").save(outs / "spatial" / "tissue_hires_image.png")
    blank = load(image)
    assert any("shows no detail" in note for note in blank.section.notes)
    assert load(image, mask="hsv").on_tissue > 0.9


# --- real sections -------------------------------------------------------------------------------

SECTIONS = ("C2", "C3", "C4", "C5")


@pytest.fixture(scope="module")
def serial(her2st):
    """Of each real section: pixels at an eighth, spots, and a small picture."""
    found = {}
    for name in SECTIONS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(her2st / f"{name}.jpg")
        with image:
            width = image.size[0]
            image.draft("RGB", (image.size[0] // 8, image.size[1] // 8))
            pixels = np.asarray(image.convert("RGB"))
        section = read_section(row_for(her2st / f"{name}.tsv.gz", donor="C", tissue="breast"))
        xy = section.xy_px * pixels.shape[1] / width
        found[name] = pixels, xy, reference_of(pixels, 900)
    return found


@pytest.mark.parametrize("name", ["C2", "C5"])
def test_real_sections_pass_and_their_turned_slides_do_not(serial, judge, name):
    pixels, xy, _ = serial[name]
    assert judge(pixels, xy).warning is None
    for pose in WRONG:
        assert f"the slide looks {pose}: only " in judge(pose.picture(pixels), xy)


@pytest.mark.parametrize("name", ["C3", "C4"])
def test_real_serial_sections_are_told_apart_by_their_pictures(serial, judge, name):
    pixels, xy, reference = serial[name]
    right = judge(pixels, xy, reference=reference)
    assert right.warning is None
    assert right.detail > 0.9
    for other in SECTIONS:
        if other != name:
            said = judge(serial[other][0], xy, reference=reference)
            assert "the slide shows something else than" in said


def test_real_serial_sections_without_pictures_are_seen_by_their_outline(serial, judge):
    for name, other in (("C2", "C3"), ("C3", "C4"), ("C4", "C5"), ("C5", "C3")):
        seen = judge(serial[other][0], serial[name][1])
        assert isinstance(seen, str) or "may be moved by" in seen.warning


def test_the_outline_of_real_spots_agrees_with_their_tissue(serial, tmp_path):
    for name, (pixels, xy, _) in serial.items():
        with open_slide(made.saved(pixels, tmp_path / f"{name}.png")) as slide:
            outline = Outline(tissue_mask(slide).mask, slide.size_px)
        own = outline.agreement(xy, pitch_of(xy))
        others = [
            outline.agreement(p.places(xy, outline.size_px), pitch_of(xy))
            for p in WRONG
            if p.turns % 2 == 0
        ]
        assert own > 0.92
        assert max(others) < 0.75
