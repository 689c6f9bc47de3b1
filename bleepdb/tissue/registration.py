"""How a slide may lie against the picture that places were measured on: poses, and their scores.

Two witnesses: a reduced picture that came with the counts, whose detail is held against the
slide's; and the spots themselves, whose outline is held against the tissue's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np
from PIL import Image
from scipy import fft, ndimage
from scipy.spatial import KDTree

from bleepdb.tissue.mask import optical_density

if TYPE_CHECKING:
    from numpy.typing import NDArray

_Any = TypeVar("_Any", bound=np.generic)

GRID_PX: Final = 512
"""Longer side of the grid that pictures are compared on."""
LEAST_PX: Final = 48
"""A picture smaller than this on the grid has no detail to compare."""
FINE, COARSE = 1.0, 4.0
"""Detail is what a Gaussian of FINE grid pixels keeps and one of COARSE does not: nuclei are finer,
the outline of the tissue, which serial sections share, is coarser."""
FLAT: Final = 1e-3
"""Optical density; a picture whose detail varies less shows nothing."""
LEAST_OVERLAP: Final = 0.2
LARGEST: Final = 2.5
"""A picture of a frame that is this many times larger than the slide is not slid over it."""
ASPECT: Final = 0.03
OUTLINE_PX: Final = 192
"""Longer side of the grid that outlines are compared on."""
REACH: Final = 0.75
"""Tissue within this many pitches of a spot belongs to it."""
SAMPLE: Final = 4000


@dataclass(frozen=True)
class Pose:
    """How a slide lies against the picture that positions refer to.

    Parameters
    ----------
    turns
        Quarter turns counterclockwise, 0 to 3, after the mirroring.
    mirrored
        Left and right are exchanged.
    factor
        Pixels of the slide per pixel of that picture.
    shift_px
        (x, y) in the slide's level-0 pixels, last of all.
    """

    turns: int = 0
    mirrored: bool = False
    factor: float = 1.0
    shift_px: tuple[float, float] = (0.0, 0.0)

    def __str__(self) -> str:
        said = _TURNED[self.mirrored, self.turns]
        parts = [said] if said else []
        if self.factor != 1:
            parts.append(
                f"rescaled to about {self.factor:.3g} of the full-resolution image that the "
                "positions refer to"
            )
        if self.shift_px != (0.0, 0.0):
            x, y = self.shift_px
            parts.append(f"moved by ({x:+.0f}, {y:+.0f}) px")
        return " and ".join(parts) or "as it should be"

    def places(self, xy_px: NDArray[np.float64], size_px: tuple[int, int]) -> NDArray[np.float64]:
        """(n, 2) level-0 pixels of a slide of `size_px` in this pose, of places in the picture."""
        width, height = size_px if self.turns % 2 == 0 else size_px[::-1]
        x, y = (np.asarray(xy_px, dtype=np.float64) * self.factor).T
        if self.mirrored:
            x = width - x
        for _ in range(self.turns):
            x, y = y, width - x
            width, height = height, width
        return np.column_stack([x, y]) + self.shift_px

    def picture(self, pixels: NDArray[_Any]) -> NDArray[_Any]:
        """Return a picture turned as the slide is; its size stays."""
        return np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns)


_TURNED: Final = {
    (False, 0): "",
    (False, 1): "turned by 90° counterclockwise",
    (False, 2): "turned by 180°",
    (False, 3): "turned by 90° clockwise",
    (True, 0): "mirrored left to right",
    (True, 1): "mirrored, x and y exchanged",
    (True, 2): "mirrored top to bottom",
    (True, 3): "mirrored, x and y exchanged and turned by 180°",
}
AS_STATED: Final = Pose()
ORIENTATIONS: Final = tuple(
    Pose(turns, mirrored) for mirrored in (False, True) for turns in range(4)
)


@dataclass(frozen=True)
class Match:
    """How well the detail of two pictures agrees.

    Attributes
    ----------
    own
        Correlation of detail where the positions say, -1 to 1; None where there is no detail.
    best
        The highest that any pose gives, and that pose.
    pose
        The pose that gives it.
    """

    own: float | None
    best: float
    pose: Pose


def match_pictures(
    slide_rgb: NDArray[np.uint8],
    size_px: tuple[int, int],
    reference_rgb: NDArray[np.uint8],
    reference_scale: float,
    *,
    slack_px: float,
    enough: float,
) -> Match:
    """Compare the detail of a slide and of a reduced picture of the tissue, pose by pose.

    Band-passed optical density, correlated over all shifts by FFT; then the overlap's Pearson
    correlation at the best shift. Other poses are looked at only where the stated one falls
    short of `enough`: the eight orientations at the stated scale, and fitted to the slide's frame.

    Parameters
    ----------
    slide_rgb
        (h, w, 3) thumbnail of the whole slide.
    size_px
        (width, height) of its level 0.
    reference_rgb
        (h, w, 3) of the other picture.
    reference_scale
        Its pixels per pixel of the image that positions refer to.
    slack_px
        Level-0 pixels by which the slide may be off and still count as lying where it should.
    enough
        Correlation that settles the matter.
    """
    frame = np.array(reference_rgb.shape[1::-1]) / reference_scale
    grid = min(GRID_PX, max(slide_rgb.shape[:2])) / max(*size_px, *frame)
    seen = _detail(_resized(slide_rgb, np.array(size_px) * grid))
    stated = _detail(_resized(reference_rgb, frame * grid))
    if min(seen.std(), stated.std()) < FLAT or min(*seen.shape, *stated.shape) < LEAST_PX:
        own = None
    else:
        own = _correlated(seen, stated, slack=max(2.0, slack_px * grid))[0]
    if own is not None and own >= enough:
        return Match(own, own, AS_STATED)
    best = Match(own, -1.0 if own is None else own, AS_STATED)
    a_pixel = max(size_px) / min(GRID_PX, max(slide_rgb.shape[:2]))
    seen = _detail(_resized(slide_rgb, np.array(size_px) / a_pixel))
    for pose in (p for turned in ORIENTATIONS for p in _framed(turned, size_px, frame)):
        fitted = frame * pose.factor / a_pixel
        if fitted.max() > LARGEST * GRID_PX:
            continue
        other = pose.picture(_detail(_resized(reference_rgb, fitted)))
        if min(seen.std(), other.std()) < FLAT or min(*seen.shape, *other.shape) < LEAST_PX:
            continue
        free = pose.factor == 1
        score, shift = _correlated(seen, other, slack=None if free else 2.0)
        if score > best.best:
            x, y = (shift * a_pixel).tolist()
            near = not free or max(abs(x), abs(y)) <= max(slack_px, 2 * a_pixel)
            best = Match(own, score, replace(pose, shift_px=(0.0, 0.0) if near else (x, y)))
    return best


def _framed(turned: Pose, size_px: tuple[int, int], frame: NDArray[np.float64]) -> list[Pose]:
    """Return an orientation at the stated scale, and fitted to the frame where its shape fits."""
    poses = [turned]
    across, down = np.array(size_px) / (frame if turned.turns % 2 == 0 else frame[::-1])
    factor = float(np.sqrt(across * down))
    if abs(across / down - 1) <= ASPECT and abs(factor - 1) > 0.01:
        poses.append(Pose(turned.turns, turned.mirrored, factor))
    return poses


def _resized(rgb: NDArray[np.uint8], size: NDArray[np.float64]) -> NDArray[np.uint8]:
    width, height = (max(1, round(float(n))) for n in size)
    image = Image.fromarray(np.ascontiguousarray(rgb))
    smaller = width < image.width
    how = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.asarray(image.resize((width, height), how))


def _detail(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    density = optical_density(rgb)
    fine, coarse = (ndimage.gaussian_filter(density, s, mode="nearest") for s in (FINE, COARSE))
    return np.asarray(fine - coarse)


def _correlated(
    a: NDArray[np.float32], b: NDArray[np.float32], *, slack: float | None
) -> tuple[float, NDArray[np.int64]]:
    """Correlation of a and b at the shift (x, y) of b that fits best, within `slack` of none."""
    shape = [
        fft.next_fast_len(one + two, real=True) for one, two in zip(a.shape, b.shape, strict=True)
    ]
    product = fft.rfft2(a, shape) * fft.rfft2(b, shape).conj()
    scores = np.asarray(fft.irfft2(product, shape))
    down, across = (np.fft.fftfreq(n, 1 / n).astype(np.int64) for n in shape)
    if slack is not None:
        scores[np.abs(down) > slack] = -np.inf
        scores[:, np.abs(across) > slack] = -np.inf
    y, x = np.unravel_index(int(scores.argmax()), shape)
    shift = np.array([across[x], down[y]])
    return _overlap(a, b, shift), shift


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32], shift: NDArray[np.int64]) -> float:
    """Pearson correlation where a and b, moved by `shift`, lie on each other."""
    x, y = shift.tolist()
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(a.shape[1], b.shape[1] + x), min(a.shape[0], b.shape[0] + y)
    if (x1 - x0) * (y1 - y0) < LEAST_OVERLAP * min(a.size, b.size):
        return -1.0
    one, two = a[y0:y1, x0:x1].ravel(), b[y0 - y : y1 - y, x0 - x : x1 - x].ravel()
    if min(one.std(), two.std()) < FLAT:
        return -1.0
    return float(np.corrcoef(one, two)[0, 1])


class Outline:
    """The tissue of a slide on a coarse grid, to hold the outline of spots against.

    Parameters
    ----------
    mask
        (h, w) bool over the whole slide.
    size_px
        (width, height) of its level 0.
    """

    def __init__(self, mask: NDArray[np.bool_], size_px: tuple[int, int]) -> None:
        scale = OUTLINE_PX / max(size_px)
        width, height = (max(1, round(n * scale)) for n in size_px)
        image = Image.fromarray(mask.astype(np.uint8) * 255)
        self.size_px = size_px
        self.scale = scale
        self.tissue = np.asarray(image.resize((width, height), Image.Resampling.BOX)) >= 128

    def on_tissue(self, xy_px: NDArray[np.float64]) -> float:
        """Share of places on tissue; outside the slide is none."""
        column, line = np.floor(xy_px * self.scale).astype(np.int64).T
        height, width = self.tissue.shape
        inside = (column >= 0) & (line >= 0) & (column < width) & (line < height)
        hits = self.tissue[np.where(inside, line, 0), np.where(inside, column, 0)] & inside
        return float(hits.mean())

    def agreement(self, xy_px: NDArray[np.float64], pitch_px: float) -> float:
        """Phi coefficient of the tissue and of what spots cover with their surroundings."""
        covered = self._covered(xy_px, pitch_px)
        if not covered.any():
            return -1.0
        if covered.all() or self.tissue.all() or not self.tissue.any():
            return 0.0
        return float(np.corrcoef(covered.ravel(), self.tissue.ravel())[0, 1])

    def reached(self, xy_px: NDArray[np.float64], pitch_px: float) -> float:
        """Share of the tissue that spots cover with their surroundings; 0 where there is none."""
        if not self.tissue.any():
            return 0.0
        return float(self._covered(xy_px, pitch_px)[self.tissue].mean())

    def _covered(self, xy_px: NDArray[np.float64], pitch_px: float) -> NDArray[np.bool_]:
        height, width = self.tissue.shape
        column, line = np.floor(xy_px * self.scale).astype(np.int64).T
        inside = (column >= 0) & (line >= 0) & (column < width) & (line < height)
        away = np.ones(self.tissue.shape, dtype=np.bool_)
        away[line[inside], column[inside]] = False
        if away.all():
            return ~away
        reach = max(REACH * pitch_px * self.scale, 0.5)
        return np.asarray(ndimage.distance_transform_edt(away) <= reach)

    def best_pose(
        self, xy_px: NDArray[np.float64], pitch_px: float, *, least: float
    ) -> tuple[Pose, float, float]:
        """Find the pose in which the outline of the spots is most like that of the tissue.

        Looked at are the orientations with and without rescaling (a reduced or enlarged image
        keeps its corner), and shifts. Only poses that put the share `least` of spots on tissue
        count.

        Returns
        -------
        tuple
            The pose, its agreement (-1 where there is none) and its share on tissue.
        """
        found = AS_STATED, -1.0, 0.0
        some = xy_px[:: max(1, len(xy_px) // SAMPLE)]
        for factor in FACTORS:
            for turned in ORIENTATIONS:
                pose = Pose(turned.turns, turned.mirrored, factor)
                share = self.on_tissue(pose.places(some, self.size_px))
                if share < least:
                    continue
                score = self.agreement(pose.places(xy_px, self.size_px), pitch_px * factor)
                if score > found[1] + (EASIER if found[0].factor == 1 != factor else 0):
                    found = pose, score, share
        moved = self._best_shift(xy_px, pitch_px)
        at = moved.places(xy_px, self.size_px)
        share, score = self.on_tissue(at), self.agreement(at, pitch_px)
        if share >= least and score > found[1] + EASIER:
            found = moved, score, share
        return found

    def _best_shift(self, xy_px: NDArray[np.float64], pitch_px: float) -> Pose:
        height, width = self.tissue.shape
        points = np.floor((xy_px - xy_px.min(axis=0)) * self.scale).astype(np.int64)
        reach = int(np.ceil(REACH * pitch_px * self.scale))
        across, down = (points.max(axis=0) + 2 * reach + 1).tolist()
        if across > 2 * width or down > 2 * height:
            return AS_STATED
        away = np.ones((down, across), dtype=np.bool_)
        away[points[:, 1] + reach, points[:, 0] + reach] = False
        covered = ndimage.distance_transform_edt(away) <= REACH * pitch_px * self.scale
        shape = [fft.next_fast_len(n, real=True) for n in (height + down, width + across)]
        outline = self.tissue - self.tissue.mean()
        product = fft.rfft2(outline, shape) * fft.rfft2(covered.astype(np.float64), shape).conj()
        scores = np.asarray(fft.irfft2(product, shape))
        y, x = np.unravel_index(int(scores.argmax()), shape)
        row = y if y < height else y - shape[0]
        column = x if x < width else x - shape[1]
        corner = (np.array([column, row]) + reach) / self.scale
        x_px, y_px = (corner - xy_px.min(axis=0)).tolist()
        return Pose(shift_px=(x_px, y_px))


FACTORS: Final = tuple(
    sorted((2 ** (k / 12) for k in range(-48, 49)), key=lambda factor: abs(np.log(factor)))
)
"""From a sixteenth to sixteen times, 6% apart; no rescaling first."""
EASIER: Final = 0.02
"""What fits itself more freely must agree this much better: a scale than a turn, a shift than
both."""


def pitch_of(xy_px: NDArray[np.float64]) -> float:
    """Median distance of a place to its nearest neighbour, in pixels; 0 for a single place."""
    if len(xy_px) < 2:
        return 0.0
    some = xy_px[:: max(1, len(xy_px) // SAMPLE)]
    return float(np.median(np.asarray(KDTree(xy_px).query(some, k=2)[0])[:, 1]))
