"""Retraction: a section or a donor leaves an atlas, and what cannot be reached is named."""

from __future__ import annotations

import logging
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bleepdb import ledger
from bleepdb.atlas import purge, retract_section
from bleepdb.atlas.describing import model_card, training_of
from bleepdb.atlas.tidying import tidy
from bleepdb.encoders.features import drop_features
from bleepdb.errors import AtlasError, EmptyAtlasError, InputError
from bleepdb.training.tile_store import drop_tiles

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bleepdb.atlas import Atlas, Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Target:
    """One live section that is to go."""

    collection: str
    tissue: str
    section: str
    donor: str
    spots: int
    revision: str
    slide_digest: str | None


@dataclass(frozen=True)
class Beyond:
    """One thing that a retraction does not reach.

    Attributes
    ----------
    kind
        ``"model"``, ``"snapshot"``, ``"export"``, ``"copy"``, ``"output"``, ``"server"`` or
        ``"cache"``.
    where
        The place.
    why
        What is in it, and what can be done.
    """

    kind: str
    where: str
    why: str


@dataclass(frozen=True)
class Plan:
    """What a retraction takes out, and what it does not reach.

    Attributes
    ----------
    atlas
        Its location.
    targets
        The sections that go, in all collections of the atlas.
    beyond
        What stays elsewhere.
    refit
        Commands that make a model without them and index the rest again; empty where no model
        was trained on them.
    """

    atlas: str
    targets: tuple[Target, ...]
    beyond: tuple[Beyond, ...]
    refit: tuple[str, ...]

    @property
    def collections(self) -> tuple[str, ...]:
        """Collections that change."""
        return tuple(dict.fromkeys(t.collection for t in self.targets))

    def to_json(self) -> dict[str, Any]:
        """Return the plan as a JSON value."""
        return {
            "atlas": self.atlas,
            "targets": [vars(t) for t in self.targets],
            "beyond_reach": [vars(b) for b in self.beyond],
            "refit": list(self.refit),
        }


@dataclass(frozen=True)
class Retracted:
    """What a retraction did.

    Attributes
    ----------
    points
        Points that were deleted.
    panels
        Stored panels that went, since no other section was measured on them.
    bytes
        What the collections take less on disk; None where that is not known.
    cached_spots, cached_features
        Decoded spots, and files of features and tiles, that left this machine's cache.
    """

    points: int
    panels: int
    bytes: int | None
    cached_spots: int
    cached_features: int


def plan_retraction(
    atlas: Atlas,
    *,
    section: str | None = None,
    donor: str | None = None,
    collections: Sequence[str] | None = None,
) -> Plan:
    """Find what a retraction takes out; nothing is changed.

    Parameters
    ----------
    atlas
        Any kind.
    section, donor
        One of both: the name of a section, or of the donor all whose sections go.
    collections
        Full names; all collections of the atlas where None.

    Raises
    ------
    InputError
        If neither or both are named.
    EmptyAtlasError
        If no live section is of that name; the message lists those that are.
    """
    if (section is None) == (donor is None):
        raise InputError("name a section or a donor", hint="pass --section S or --donor D")
    manifests = []
    for name in atlas.collections() if collections is None else collections:
        try:
            manifests.append(atlas.read_manifest(name))
        except EmptyAtlasError:
            continue  # nothing was ever indexed into it
    targets = tuple(
        Target(
            manifest.collection,
            manifest.tissue,
            live.section,
            live.donor,
            live.spots,
            live.revision,
            _text(live.provenance.get("slide_digest")),
        )
        for manifest in manifests
        for live in manifest.live
        if live.section == section or live.donor == donor
    )
    if not targets:
        raise _nothing(atlas, manifests, section=section, donor=donor)
    models = _models(atlas, section=section, donors={t.donor for t in targets})
    beyond = [
        *models.values(),
        *_copies(manifests, targets),
        *_outputs(targets),
        *_caches(atlas),
    ]
    return Plan(atlas.location, targets, tuple(beyond), _refit(atlas, targets, models, donor))


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _nothing(
    atlas: Atlas, manifests: Sequence[Manifest], *, section: str | None, donor: str | None
) -> EmptyAtlasError:
    what, name = ("section", section) if donor is None else ("donor", donor)
    live = [s for m in manifests for s in m.live]
    there = sorted({s.section for s in live} if donor is None else {s.donor for s in live})
    shown = ", ".join(there[:20]) + (" ..." if len(there) > 20 else "")
    return EmptyAtlasError(
        f"no live section is of {what} {name!r:.80}",
        where=atlas.location,
        hint=f"there is: {shown or 'nothing'}; what an interrupted retraction left goes with "
        "`bleepdb atlas vacuum`",
    )


def _models(atlas: Atlas, *, section: str | None, donors: set[str]) -> dict[str, Beyond]:
    """Models of the atlas, by collection, that were trained on what goes."""
    made = {}
    for name in atlas.collections():
        try:
            card = model_card(atlas, name)
        except AtlasError as error:
            log.warning("what the model of %s was trained on cannot be read: %s", name, error)
            continue
        trained = training_of(card or {})
        own = [s for s, d in trained if d in donors and section in {None, s}]
        if own:
            made[name] = Beyond(
                "model",
                f"{atlas.location}/{name}/model",
                f"was trained on {', '.join(own)}; only training again without them takes them out",
            )
    return made


def _copies(manifests: Sequence[Manifest], targets: Sequence[Target]) -> list[Beyond]:
    touched = {t.collection for t in targets}
    return [
        Beyond(
            copy.kind,
            copy.where,
            f"made by {copy.who} on {copy.when[:10]}; remove it and make it again"
            if copy.kind != "copy"
            else f"made by {copy.who} on {copy.when[:10]}; retract there too",
        )
        for manifest in manifests
        if manifest.collection in touched
        for copy in manifest.copies
    ]


def _outputs(targets: Sequence[Target]) -> list[Beyond]:
    sections, donors = {t.section for t in targets}, {t.donor for t in targets}
    return [
        Beyond("output", entry.path, "its values rest on these spots; remove it and query again")
        for entry in ledger.outputs()
        if sections & set(entry.sections) and donors & set(entry.donors)
    ]


def _caches(atlas: Atlas) -> list[Beyond]:
    made = []
    if atlas.kind == "server":
        made.append(
            Beyond(
                "server",
                atlas.location,
                "deleted points stay in its files until its optimiser rewrites them, and in every "
                "snapshot and backup that was made of it",
            )
        )
    made.append(
        Beyond(
            "cache",
            "other machines that queried this atlas",
            "their caches drop these spots when they next open it; outputs and model folders there "
            "are not known here",
        )
    )
    return made


def _refit(
    atlas: Atlas, targets: Sequence[Target], models: dict[str, Beyond], donor: str | None
) -> tuple[str, ...]:
    """Words of the commands that make and index a model without what goes."""
    if not models:
        return ()
    if donor is not None:
        without = f"--exclude-donor {shlex.quote(donor)}"
    else:
        names = dict.fromkeys(t.section for t in targets)
        without = " ".join(f"--exclude-section {shlex.quote(name)}" for name in names)
    place = shlex.quote(atlas.location)
    tissues = dict.fromkeys(t.tissue for t in targets)
    return (
        f"bleepdb train SHEET --out NEW_MODEL {without}",
        f"bleepdb index SHEET --model NEW_MODEL --atlas {place} {without}",
        *(f"bleepdb atlas alias --atlas {place} --tissue {t} --to NEW_COLLECTION" for t in tissues),
    )


def retract(
    atlas: Atlas,
    plan: Plan,
    *,
    actor: str,
    progress: Callable[[int, int], None] | None = None,
) -> Retracted:
    """Take the sections of a plan out of the atlas and of this machine's cache, bytes and all.

    First the cached features of their slides go, which nothing names once the sections are gone;
    then they leave every result, then the cache, then the files of an embedded atlas. Each step
    is logged in the manifest. Interrupted, `bleepdb atlas vacuum` does the rest.

    Parameters
    ----------
    atlas
        As `plan_retraction` saw it; one that can be written.
    plan
        What goes.
    actor
        Who does it, for the log.
    progress
        Called with (steps done, steps).

    Raises
    ------
    AtlasError
        If the atlas cannot be written.
    """
    if atlas.kind == "snapshot":
        raise AtlasError(
            "a snapshot is read-only",
            where=atlas.location,
            hint="retract in the atlas that it was made from, then remove it and write a new one",
        )
    steps, done = len(plan.targets) + 1 + len(plan.collections), 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    points = 0
    slides = {t.slide_digest for t in plan.targets if t.slide_digest is not None}
    features = drop_features(slides) + drop_tiles(slides)
    for target in plan.targets:
        points += retract_section(atlas, target.collection, target.section, actor=actor).removed
        step()
    spots = purge({t.revision for t in plan.targets})
    step()
    panels, freed = 0, []
    for name in plan.collections:
        tidied = tidy(atlas, name, actor=actor)
        points += tidied.points
        panels += tidied.panels
        freed.append(tidied.bytes)
        if tidied.kept:
            log.warning(
                "%s: %d dead points stay, since a writer holds them or somebody began to delete "
                "them; run `bleepdb atlas vacuum` in five minutes",
                name,
                tidied.kept,
            )
        step()
    known = [b for b in freed if b is not None]
    return Retracted(
        points, panels, sum(known) if len(known) == len(freed) else None, spots, features
    )
