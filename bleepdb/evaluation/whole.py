"""A whole evaluation in one call: refusals first, then features, folds and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bleepdb.evaluation.features import Features
from bleepdb.evaluation.protocol import run
from bleepdb.evaluation.report import Report
from bleepdb.evaluation.rows import rows_of
from bleepdb.evaluation.settings import Settings, folds_of
from bleepdb.evaluation.twins import (
    allowed_twins,
    pairs_across,
    refuse_same_pictures,
    refuse_twins,
)
from bleepdb.tissue import Section, load_section, read_sheet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bleepdb.tissue import SheetRow


def check(donor_of: Mapping[str, str], settings: Settings) -> None:
    """Refuse, before anything is read, what an evaluation would refuse after it.

    Parameters
    ----------
    donor_of
        Section -> donor.
    settings
        How.

    Raises
    ------
    InputError
        If folds, lists, recipes, methods or twins that are named cannot be.
    """
    folds_of(donor_of, settings)
    rows_of(settings)
    allowed_twins(settings.allow_twins, list(donor_of))


def evaluate(
    sections: Path | Sequence[Section] | Sequence[SheetRow],
    settings: Settings | None = None,
    features: Features | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Evaluate recipes beside baselines on held-out sections.

    Parameters
    ----------
    sections
        Sections as read, rows of a sheet, or the sheet. Rows are read as ``bleepdb evaluate``
        reads them, with its default thresholds.
    settings
        What is held out, recipes, baselines, seeds; by default one donor at a time where there
        are several, all recipes and all baselines.
    features
        Backbone, levels and tiles.
    progress
        Called with (done, of, what is being done).

    Returns
    -------
    Report
        ``report.to_json()`` is the document; ``report.summary()`` the sentence.

    Raises
    ------
    InputError
        If sections, settings or features cannot be used, or near-duplicate sections stand on two
        sides of a split.
    """
    how, on = settings or Settings(), features or Features()
    rows: list[Section | SheetRow] = [
        *(read_sheet(sections) if isinstance(sections, Path) else sections)
    ]
    donors = {r.section: r.donor for r in rows}
    check(donors, how)
    read = [r if isinstance(r, Section) else load_section(r).section for r in rows]
    across = pairs_across(folds_of(donors, how))
    allowed = allowed_twins(how.allow_twins, list(donors))
    refuse_twins(read, across, allowed=allowed)
    refuse_same_pictures(read, across, allowed=allowed)

    def moved(what: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, of: progress(done, of, what)

    wanted = rows_of(how).features
    ours = on.ours(read, progress=moved("encoding tiles"))
    published = colour = None
    if "published" in wanted:
        published = on.published(read, progress=moved("encoding tiles, published features"))
    if "colour" in wanted:
        colour = on.colour(read, progress=moved("encoding tiles, colour"))
    found = run(ours, published, how, colour=colour, refuse=False, progress=progress)
    return Report.of(found, how, ours, published, colour)
