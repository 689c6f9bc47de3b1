"""Do spots and image belong together? Two witnesses: the picture that came with them, the tissue.

A slide that is turned, mirrored, rescaled, cropped or another one altogether is refused, with a
picture that shows how it lies and how it would fit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from scipy import ndimage

from bleepdb.errors import SectionError, SlideError
from bleepdb.files import cache_dir, digest
from bleepdb.tissue.mask import (
    BLUR_PX,
    MAX_PX,
    TissueMask,
    optical_density,
    tissue_mask,
)
from bleepdb.tissue.overlay import FITTED, Marks, draw_overlay
from bleepdb.tissue.registration import AS_STATED, Match, Outline, Pose, match_pictures, pitch_of
from bleepdb.tissue.tiles import outside, refuse_outside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bleepdb.tissue.section import ReferenceImage
    from bleepdb.tissue.slide import Slide

FEW_ON_TISSUE: Final = 0.8  # right images gave 1.0 on real sections, a mirrored one 0.69
MOST_ON_TISSUE: Final = 0.95
"""Where this share is on tissue, no other pose is looked for: the spots say nothing more."""
FITS: Final = 0.9
"""A pose that puts fewer spots on tissue explains nothing."""
SAME_OUTLINE: Final = 0.75
"""Agreement (phi) of a pose that explains; right ones gave .94 to .95 on real sections."""
CLEARLY, SOMEWHAT = 0.15, 0.05
"""How much better another pose must agree: to be refused, to be warned of."""
NO_OUTLINE: Final = 0.25
LOOSE, FILLED = 0.6, 0.75
"""Agreement below which spots that miss some tissue are doubted; tissue that covers more than
FILLED of the slide has too little of an outline for that."""
HALF: Final = 0.5
WHOLE: Final = 0.95
"""Spots that reach this share of the tissue lie right, and some of them on background."""
GLASS: Final = 25
"""Percentile of the optical density away from spots and mask that is taken for glass."""
ON_SOMETHING: Final = 0.2
"""Optical density by which spots on pale tissue exceed glass at least; pale tissue that a mask
had lost to ink gave .35 and more, glass beside tissue up to .17."""
LEAST_SPOTS: Final = 10
"""Fewer spots have no outline."""
SAME_DETAIL: Final = 0.4
"""Correlation of detail; the same picture gave .71 to 1.0, down to 120 px, under any colours."""
OTHER_DETAIL: Final = 0.2
"""Wrong poses and serial sections gave at most .11, over all shifts."""
LEAST_PICTURE_PX: Final = 100
"""Longer side below which a picture that is unlike says nothing: the same one gave .39 at 64 px,
and .30 at 100 px as a poor JPEG."""
SLACK: Final = 0.25
"""Share of the pitch by which a slide may be off."""
SLACK_OF_SLIDE: Final = 0.005
"""The same, as a share of the slide's longer side, where there is no pitch."""


@dataclass(frozen=True)
class Registration:
    """How spots lie on a slide.

    Attributes
    ----------
    on_tissue
        Share of the spots that the tissue mask covers.
    mask
        That mask.
    warning
        Sentences to show, in one, or None.
    detail
        Correlation of the slide's detail with that of the picture that came with the spots, where
        they say; None where there is no such picture, or nothing to see on it.
    notes
        What could not be checked.
    overlay
        The picture that was drawn, or None.
    """

    on_tissue: float
    mask: TissueMask
    warning: str | None
    detail: float | None = None
    notes: tuple[str, ...] = ()
    overlay: Path | None = None


@dataclass
class _Findings:
    """What the witnesses said."""

    faults: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    poses: list[Pose] = field(default_factory=list)
    detail: float | None = None


def check_registration(
    xy_px: NDArray[np.float64],
    slide: Slide,
    *,
    mask: TissueMask | None = None,
    reference: ReferenceImage | None = None,
    allow_misfit: bool = False,
    overlay: Path | None = None,
) -> Registration:
    """Hold spots against the slide that they were measured on.

    The slide's detail is compared with that of `reference`, in the stated place, the eight
    orientations, any shift, and fitted to its frame; the outline of the spots with the tissue's,
    in the same poses and from a sixteenth to sixteen times the size. Tissue that fills the slide
    has no outline and passes.

    Parameters
    ----------
    xy_px
        (n, 2) centres in level-0 pixels.
    slide
        The open slide.
    mask
        Its tissue; found here where it is not given.
    reference
        The small picture of the same tissue that the spots came with.
    allow_misfit
        Go on, with a warning, where the slide would be refused. Spots outside the image are
        refused all the same.
    overlay
        Where to draw the picture; without it one is drawn only where the slide is refused, among
        the caches.

    Raises
    ------
    SlideError
        If spots lie outside the image, none lies on tissue, or the slide is turned, mirrored,
        rescaled, moved, or shows something else. It names the picture that was drawn.
    """
    found = _Findings()
    thumbnail = None
    if mask is None or reference is not None:
        thumbnail = slide.thumbnail(MAX_PX)
    pitch_px = pitch_of(xy_px)
    gone = outside(xy_px, slide.size_px).any()
    if reference is not None and thumbnail is not None:
        _ask_picture(found, reference, slide, thumbnail, pitch_px)
    if mask is None:
        try:
            mask = tissue_mask(slide, thumbnail=thumbnail)
        except SlideError:
            if gone:
                refuse_outside(xy_px, slide)
            raise
    share = float(mask.covers(xy_px).mean())
    _ask_tissue(found, mask, xy_px, pitch_px, share, slide)
    drawn, said = overlay, ""
    if overlay is not None or found.faults or gone:
        drawn, said = _draw(found, slide, mask, xy_px, pitch_px, reference, overlay)
    if gone:
        try:
            refuse_outside(xy_px, slide)
        except SlideError as error:
            why = f" ({found.faults[0]})" if found.faults else ""
            raise SlideError(
                f"{error.what}{why}", where=error.where, hint=f"{error.hint}{said}"
            ) from error
    if found.faults and not allow_misfit:
        raise SlideError(
            "; ".join(found.faults),
            where=slide.path,
            hint=f"give the image that the positions were measured on{said}, or go on with "
            "--allow-misfit",
        )
    odd = [*found.faults, *found.doubts]
    warning = f"{slide.path}: {'; '.join(odd)}{said if found.faults else ''}" if odd else None
    return Registration(share, mask, warning, found.detail, tuple(found.notes), drawn)


def _ask_picture(
    found: _Findings,
    reference: ReferenceImage,
    slide: Slide,
    thumbnail: NDArray[np.uint8],
    pitch_px: float,
) -> None:
    """Hold the slide against the picture that came with the spots."""
    try:
        pixels = reference.load()
    except SectionError as error:
        found.notes.append(f"registration is not checked against {reference.where} ({error.what})")
        return
    slack_px = SLACK * pitch_px if pitch_px else SLACK_OF_SLIDE * max(slide.size_px)
    match: Match = match_pictures(
        thumbnail, slide.size_px, pixels, reference.scale, slack_px=slack_px, enough=SAME_DETAIL
    )
    found.detail = match.own
    if match.best >= SAME_DETAIL:
        if match.pose != AS_STATED:
            found.poses.append(match.pose)
            found.faults.append(f"beside {reference.where} the slide looks {match.pose}")
    elif match.own is None and match.best < 0:
        found.notes.append(
            f"registration is not checked against {reference.where}, which shows no detail"
        )
    elif match.best < OTHER_DETAIL and max(pixels.shape[:2]) < LEAST_PICTURE_PX:
        found.detail = None
        found.notes.append(
            f"registration is not checked against {reference.where}, which is too small to tell"
        )
    elif match.best < OTHER_DETAIL:
        found.faults.append(
            f"the slide shows something else than {reference.where} (their detail correlates at "
            f"{match.best:.2f} at best)"
        )
    else:
        found.doubts.append(
            f"the slide is only faintly like {reference.where} (their detail correlates at "
            f"{match.best:.2f}); is it the same scan?"
        )


def _ask_tissue(
    found: _Findings,
    mask: TissueMask,
    xy_px: NDArray[np.float64],
    pitch_px: float,
    share: float,
    slide: Slide,
) -> None:
    """Hold the outline of the spots against that of the tissue."""
    if share >= MOST_ON_TISSUE:
        return
    pose, best, then, agreed, loose = AS_STATED, -1.0, 0.0, 1.0, False
    if len(xy_px) >= LEAST_SPOTS and pitch_px > 0 and not found.faults:
        outline = Outline(mask.mask, slide.size_px)
        if share == 0 or outline.reached(xy_px, pitch_px) < WHOLE:
            agreed = outline.agreement(xy_px, pitch_px)
            loose = agreed < LOOSE and outline.tissue.mean() < FILLED
            pose, best, then = outline.best_pose(xy_px, pitch_px, least=FITS)
    few = f"only {share:.0%} of {len(xy_px)} spots are on tissue"
    if share == 0:
        few = f"none of {len(xy_px)} spots is on tissue"
    if best >= SAME_OUTLINE and best - agreed >= SOMEWHAT and pose != AS_STATED:
        found.poses.append(pose)
        clear = share == 0 or best - agreed >= CLEARLY
        looks = f"the slide {'looks' if clear else 'may be'} {pose}"
        if found.detail is not None and found.detail >= SAME_DETAIL:
            looks = f"the spots lie as if the slide were {pose}, which it is not"
        (found.faults if clear else found.doubts).append(f"{looks}: {few} as given, {then:.0%} so")
    elif share == 0 or (share < HALF and agreed < NO_OUTLINE):  # agreed is 1 where not asked
        if _on_glass(mask, xy_px, pitch_px, slide):
            found.faults.append(few)
        else:
            found.doubts.append(
                f"{few} as the mask has it, yet the others are darker than glass; is there ink or "
                "a dark frame that the mask takes for tissue?"
            )
    elif share < FEW_ON_TISSUE or loose:
        found.doubts.append(f"{few}; is it the right image, neither flipped nor turned?")


def _on_glass(mask: TissueMask, xy_px: NDArray[np.float64], pitch_px: float, slide: Slide) -> bool:
    """Whether the spots that miss the mask lie on what is no darker than glass.

    Ink, a dark frame or a black part of a scan can raise the threshold of a mask above pale
    tissue; spots on it are then no sign of a wrong image.
    """
    thumbnail = slide.thumbnail(MAX_PX)
    density = ndimage.gaussian_filter(optical_density(thumbnail), BLUR_PX, mode="nearest")
    scale = thumbnail.shape[1] / slide.size_px[0]
    height, width = density.shape
    column, line = np.floor(xy_px[~mask.covers(xy_px)] * scale).astype(np.int64).T
    inside = (column >= 0) & (line >= 0) & (column < width) & (line < height)
    if not inside.any():
        return True
    column, line = column[inside], line[inside]
    away = np.ones(density.shape, dtype=np.bool_)
    away[line, column] = False
    apart = ndimage.distance_transform_edt(away) > pitch_px * scale
    y, x = (np.indices(density.shape).reshape(2, -1) + 0.5) / scale
    apart &= ~mask.covers(np.column_stack([x, y])).reshape(density.shape)
    if not apart.any():
        return False
    glass = np.percentile(density[apart], GLASS)
    return bool(np.median(density[line, column]) - glass < ON_SOMETHING)


def _draw(
    found: _Findings,
    slide: Slide,
    mask: TissueMask,
    xy_px: NDArray[np.float64],
    pitch_px: float,
    reference: ReferenceImage | None,
    path: Path | None,
) -> tuple[Path | None, str]:
    """Draw the slide with its spots; return the picture and a clause that names it."""
    edge = pitch_px * 0.55
    marks = [Marks(xy_px, edge, f"{len(xy_px)} spots as given")]
    if found.poses:
        pose = found.poses[0]
        fitted = pose.places(xy_px, slide.size_px)
        marks.append(Marks(fitted, edge * pose.factor, f"if the slide is {pose}", colour=FITTED))
    beside = None
    if reference is not None:
        try:
            beside = (reference.load(), reference.scale, (Marks(xy_px, edge),))
        except SectionError as error:
            found.notes.append(f"{reference.where} is not drawn ({error.what})")
    lines = [slide.path.name, *found.faults, *found.doubts]
    try:
        if path is None:
            path = cache_dir() / "overlays" / _name(slide, xy_px)
        draw_overlay(slide, path, mask=mask, marks=marks, lines=lines, beside=beside)
    except OSError as error:
        return None, f" (no picture could be drawn: {error})"
    return path, f" (drawn in {path})"


def _name(slide: Slide, xy_px: NDArray[np.float64]) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", slide.path.stem)[:80]
    return f"{stem}-{digest(str(slide.path.absolute()), xy_px.tobytes())[:8]}.png"
