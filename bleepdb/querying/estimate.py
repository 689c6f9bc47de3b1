"""What a run over many slides would do and cost, told without writing anything."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from bleepdb.atlas import get_panel
from bleepdb.encoders import measure_speed
from bleepdb.encoders.feature_cache import cache_file
from bleepdb.errors import BleepdbError
from bleepdb.files import cache_dir
from bleepdb.querying.genes import choose_genes
from bleepdb.querying.output import bytes_a_place
from bleepdb.querying.places import THUMBNAIL_PX, locate
from bleepdb.querying.resuming import is_current, refuse_foreign, request_of
from bleepdb.querying.settings import Query
from bleepdb.querying.slide import check_query, refuse_nobody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bleepdb.atlas import Pinned
    from bleepdb.encoders import Model, Speed
    from bleepdb.panel import Panel
    from bleepdb.querying.many import Many
    from bleepdb.querying.places import Located
    from bleepdb.tissue.slide_sheet import SlideRow

READY, SKIPPED, REFUSED = "ready", "skipped", "refused"
TABLE_BYTES: Final = 400  # of one place in the tables of an output
GB: Final = 1e9


@dataclass
class Foreseen:
    """What would become of one slide.

    Attributes
    ----------
    name, slide, line
        As the row says.
    status
        ``ready``, ``skipped`` (its output is there) or ``refused``.
    reason
        Why it is refused or skipped.
    size_px
        (width, height) of level 0.
    slide_mpp, mpp_source
        Microns per level-0 pixel, and who says so.
    places
        Tiles, or spots.
    cached
        Whether its features are on this machine.
    hours
        To read and encode its tiles here; 0 where they are cached.
    output_gb, cache_gb
        Gigabytes of its output at the most, and of its features that are not there yet.
    warnings
        Sentences to read.
    """

    name: str
    slide: str
    line: int = 0
    status: str = READY
    reason: str | None = None
    size_px: tuple[int, int] | None = None
    slide_mpp: float | None = None
    mpp_source: str | None = None
    places: int = 0
    cached: bool = False
    hours: float = 0.0
    output_gb: float = 0.0
    cache_gb: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    Attributes
    ----------
    slides
        One by one.
    tiles_per_second
        Read and encoded on this machine with this model; None where nothing needs to be.
    measured_on
        How many tiles that was measured on.
    genes
        How many genes get values.
    refusals
        What would end the run, for all slides.
    """

    slides: tuple[Foreseen, ...]
    tiles_per_second: float | None
    measured_on: int
    genes: int
    refusals: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """2 where the run as a whole would be refused, 1 where a slide would, else 0."""
        if self.refusals:
            return 2
        return 1 if any(s.status == REFUSED for s in self.slides) else 0

    def document(self) -> dict[str, Any]:
        """Return it as JSON values."""
        ready = [s for s in self.slides if s.status == READY]
        return {
            "slides": [asdict(s) for s in self.slides],
            "total": {
                **{w: sum(s.status == w for s in self.slides) for w in (READY, SKIPPED, REFUSED)},
                "places": sum(s.places for s in ready),
                "to_encode": sum(s.places for s in ready if not s.cached),
                "hours": sum(s.hours for s in ready),
                "output_gb": sum(s.output_gb for s in ready),
                "cache_gb": sum(s.cache_gb for s in ready),
            },
            "tiles_per_second": self.tiles_per_second,
            "measured_on": self.measured_on,
            "genes": self.genes,
            "refusals": list(self.refusals),
        }


@dataclass(frozen=True)
class _Panels:
    panels: tuple[Panel, ...]


def foresee(
    many: Many, *, output: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Plan:
    """Look at all slides of a run, and tell what it would do and cost; nothing is written.

    Parameters
    ----------
    many
        The run.
    output
        The output, where the one slide has a file of its own.
    progress
        Called with (slides looked at, slides).

    Raises
    ------
    BleepdbError
        What concerns all slides: the atlas, the model, the genes.
    """
    model = many.model
    model.backbone()
    with many.borrow() as atlas:
        pinned = check_query(model, atlas, many.collection, many.settings)
        location = atlas.location
        panels = tuple(get_panel(atlas, many.collection, d) for d in pinned.manifest.panels)
    genes = len(choose_genes(many.settings.genes, model, _Panels(panels)))
    card = model.retrieval
    longest = min(many.settings.k or int(card["k"]), pinned.manifest.spots)
    share = card["smoothing"]["weight"]
    if (share if many.settings.smoothing is None else many.settings.smoothing) > 0:
        longest *= AROUND
    a_place = TABLE_BYTES + bytes_a_place(genes, longest, neighbour_sd=many.settings.neighbour_sd)
    speed: float | None = None
    measured = 0
    made: list[Foreseen] = []
    for done, row in enumerate(many.rows):
        seen = Foreseen(row.name, str(row.slide), line=row.line)
        made.append(seen)
        try:
            located = _look(many, row, seen, location, pinned, output)
            if located is not None:
                seen.output_gb = (a_place * seen.places + 3 * THUMBNAIL_PX**2) / GB
                seen.cached = _is_cached(located, model)
                if not seen.cached:
                    seen.cache_gb = 4 * seen.places * _width(model) / GB
                    if speed is None:
                        timed = _speed(located, model)
                        speed, measured = timed.places_per_s, timed.places
                    seen.hours = seen.places / speed / 3600
        except Exception as error:  # noqa: BLE001 - so would the run list it
            seen.status = REFUSED
            said = str(error) if isinstance(error, BleepdbError) else repr(error)
            seen.reason = " ".join(said.split())
        if progress is not None:
            progress(done + 1, len(many.rows))
    return Plan(tuple(made), speed, measured, genes, tuple(_no_room(many, made, output)))


AROUND: Final = 9  # places whose neighbours smoothing brings together, at the most


def _look(
    many: Many,
    row: SlideRow,
    seen: Foreseen,
    location: str,
    pinned: Pinned,
    output: Path | None,
) -> Located | None:
    """Open a slide and note what it is; None where its output is there."""
    query = Query.of(row)
    refuse_nobody(query, many.settings, many.model, pinned, location=location)
    located = locate(query, many.model, many.settings)
    seen.size_px, seen.slide_mpp = located.size_px, located.slide_mpp
    seen.mpp_source, seen.places = located.mpp_source, len(located.names)
    seen.warnings = located.warnings
    if output is not None:
        return located
    refuse_foreign(many.output(row))
    if many.force:
        return located
    facts = is_current(
        many.output(row),
        request=request_of(query, many.settings, many.model),
        atlas=location,
        pinned=pinned,
    )
    if facts is None or facts["slide_digest"] != located.slide_digest:
        return located
    seen.status, seen.reason = SKIPPED, "its output is there"
    return None


def _is_cached(located: Located, model: Model) -> bool:
    return cache_file(
        located.slide_digest,
        located.xy_px,
        located.slide_mpp,
        model.feature_spec,
        model.backbone(),
    ).is_file()


def _width(model: Model) -> int:
    """Features of one place."""
    return model.image_tower.inputs // (1 if model.context is None else 2)


def _speed(located: Located, model: Model) -> Speed:
    """Encode a few tiles of a slide here, as in earnest."""
    return measure_speed(
        located.query.slide_path,
        located.xy_px,
        slide_mpp=located.slide_mpp,
        spec=model.feature_spec,
        backbone=model.backbone(),
        max_upsampling=located.settings.max_upsampling,
    )


def _no_room(many: Many, made: list[Foreseen], output: Path | None) -> Iterator[str]:
    """Tell which disk would be too small."""
    needs = {
        output or many.out: sum(s.output_gb for s in made if s.status == READY),
        cache_dir(): sum(s.cache_gb for s in made if s.status == READY),
    }
    for path, needed in needs.items():
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free / GB
        if needed > free:
            yield f"{path}: {needed:.1f} GB may be needed, and {free:.1f} GB are free"
