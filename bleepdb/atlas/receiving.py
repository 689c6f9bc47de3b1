"""A collection arrives from elsewhere: section by section, each whole, then read again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bleepdb.atlas.commit import UNCHANGED, prepare_collection, publish_section
from bleepdb.atlas.entries import LogEntry
from bleepdb.atlas.panels import put_panel
from bleepdb.atlas.protocol import CollectionSpec
from bleepdb.atlas.verifying import verify
from bleepdb.errors import AtlasCorruptError
from bleepdb.names import alias_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bleepdb.atlas.commit import Outcome
    from bleepdb.atlas.entries import LiveSection
    from bleepdb.atlas.manifest import Manifest
    from bleepdb.atlas.protocol import Atlas, Points
    from bleepdb.panel import Panel


@dataclass(frozen=True)
class Arrival:
    """What shall arrive.

    Parameters
    ----------
    manifest
        Of the place that it comes from: what the collection is, and the sections that are live.
    panels
        The panels that their points name.
    documents
        Name -> content of what else stands beside the manifest: the model.
    points
        Gives the points of a section, again whenever it is asked.
    """

    manifest: Manifest
    panels: Iterable[Panel]
    documents: Mapping[str, bytes]
    points: Callable[[LiveSection], Iterable[Points]]


@dataclass(frozen=True)
class Received:
    """What became of it.

    Attributes
    ----------
    collection
        Full name.
    outcomes
        Section -> outcome of its commit.
    verified
        Points that were read again from the target and compared with the section's digest.
    alias
        Where the alias of the tissue points now.
    """

    collection: str
    outcomes: Mapping[str, Outcome]
    verified: int
    alias: str | None

    @property
    def written(self) -> int:
        """Points that were written."""
        return sum(o.written for o in self.outcomes.values())


def spec_of(manifest: Manifest) -> CollectionSpec:
    """Return what the collection of a manifest is made with."""
    return CollectionSpec(
        manifest.collection,
        alias_name(manifest.tissue),
        manifest.vectors,
        manifest.keyword_fields,
    )


def first_of(manifest: Manifest, entry: LogEntry) -> Manifest:
    """Return the first manifest of a collection like this one: nothing is live in it yet."""
    return replace(
        manifest,
        panels=(),
        live=(),
        generation=0,
        log=(entry,),
        staging=(),
        condemned=(),
        copies=(),
    )


def receive(
    atlas: Atlas,
    arrival: Arrival,
    *,
    came_from: str,
    actor: str,
    progress: Callable[[int, int], None] | None = None,
) -> Received:
    """Put a collection into an atlas; what is there already is left alone.

    Each section becomes visible whole, and only if its points are those that its digest stands
    for. What an interrupted call brought is not written again. Sections that only the atlas has
    stay. In the end all that was written is read again.

    Parameters
    ----------
    atlas
        The target.
    arrival
        What comes.
    came_from
        Place, for the log.
    actor
        Who does it, for the log.
    progress
        Called with (points done, points).

    Raises
    ------
    SpaceMismatchError
        If the collection of the target was made by another model.
    AtlasCorruptError
        If points are not those of their digest, on the way or when they are read again.
    AtlasError
        If the target cannot be written.
    """
    manifest = arrival.manifest
    name, total, done = manifest.collection, manifest.spots, 0
    entry = LogEntry.now(actor, f"copied from {came_from}")
    prepare_collection(atlas, spec_of(manifest), first_of(manifest, entry), actor=actor)
    for document, data in arrival.documents.items():
        if atlas.get_blob(name, document) != data:
            atlas.put_blob(name, document, data)
    for panel in arrival.panels:
        put_panel(atlas, name, panel)
    outcomes: dict[str, Outcome] = {}
    for live in manifest.live:

        def points(live: LiveSection = live, before: int = done) -> Iterable[Points]:
            here = 0
            for batch in arrival.points(live):
                yield batch
                here += len(batch)
                if progress is not None:
                    progress(before + here, total)

        outcome = publish_section(atlas, name, live, points(), actor=actor)
        if outcome.status == UNCHANGED:
            _check_same(atlas, name, live)
        outcomes[live.section] = outcome
        done += live.spots
        if progress is not None:
            progress(done, total)
    new = [section for section, outcome in outcomes.items() if outcome.status != UNCHANGED]
    verified = _read_again(atlas, name, new) if new else 0
    if new:
        atlas.optimize(name)
    return Received(name, outcomes, verified, atlas.aliases().get(alias_name(manifest.tissue)))


def _check_same(atlas: Atlas, collection: str, live: LiveSection) -> None:
    """Require that a section that was there already is the one that comes."""
    there = atlas.read_manifest(collection).find(live.section)
    digests = {live.points_digest, None if there is None else there.points_digest} - {None}
    if len(digests) > 1:
        raise AtlasCorruptError(
            f"section {live.section} is there under the same revision with other points",
            where=f"{atlas.location}/{collection}",
            hint="run `bleepdb atlas verify` on both, and retract the section where it is damaged",
        )


def _read_again(atlas: Atlas, collection: str, sections: list[str]) -> int:
    report = verify(atlas, collection, sections)
    # Not those of the model and of aliases, which may have come so.
    faults = [f for f in report.faults if f.where.startswith(("section", "panel", "points"))]
    if faults or len(report.sections) != len(sections):
        raise AtlasCorruptError(
            "what was written reads back otherwise: "
            f"{faults[0] if faults else 'a section is not there'}",
            where=f"{atlas.location}/{collection}",
            hint="see to the disk, run `bleepdb atlas verify`, retract what is damaged, copy again",
        )
    return sum(s.found for s in report.sections)
