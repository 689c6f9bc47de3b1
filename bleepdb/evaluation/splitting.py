"""Folds: by donor, by section, or by lists that a person wrote; every fault of a list at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bleepdb.errors import InputError, SheetError
from bleepdb.splits import Split, leave_one_donor_out, leave_one_section_out
from bleepdb.tissue.sheet_frame import read_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

AUTO: Final = "auto"
DONOR: Final = "donor"
SECTION: Final = "section"
LISTS: Final = "lists"
TRAIN: Final = "train"
TEST: Final = "test"
COLUMNS: Final = ("fold", "section", "role")


def resolve(by: str, donor_of: Mapping[str, str], *, least: int = 2) -> tuple[str, str]:
    """Say what is held out where ``"auto"`` leaves it open, and why.

    Parameters
    ----------
    by
        ``"auto"``, ``"donor"`` or ``"section"``.
    donor_of
        Section -> donor.
    least
        Fewest donors that can be held out in turn.

    Returns
    -------
    tuple
        ``"donor"`` or ``"section"``, and one clause that says why.

    Raises
    ------
    InputError
        If `by` is none of them.
    """
    if by not in {AUTO, DONOR, SECTION}:
        raise InputError(f"cannot hold out by {by!r}", hint="choose auto, donor or section")
    donors = len(set(donor_of.values()))
    if by != AUTO:
        return by, "as asked"
    if donors >= least:
        return DONOR, f"{donors} donors: each is held out whole"
    few = "one donor" if donors == 1 else f"only {donors} donors"
    return SECTION, f"{few}: one section is held out at a time, its donor stays in training"


def folds_by(by: str, donor_of: Mapping[str, str]) -> list[Split]:
    """Return all folds that hold out one donor or one section.

    Raises
    ------
    InputError
        If there are too few, or `by` is none of the three.
    """
    held, _ = resolve(by, donor_of)
    return leave_one_donor_out(donor_of) if held == DONOR else leave_one_section_out(donor_of)


def fold_of_lists(
    train: Sequence[str],
    test: Sequence[str],
    donor_of: Mapping[str, str],
    *,
    allow_donors: Sequence[str] = (),
) -> Split:
    """Return the one fold of two lists of sections; one that is empty takes all the others.

    Raises
    ------
    InputError
        With all faults in one line: names that are not there or stand twice, sections or donors
        on both sides, a side that is empty.
    """
    everything = list(donor_of)
    inside = list(train) or [s for s in everything if s not in test]
    outside = list(test) or [s for s in everything if s not in train]
    split = Split("+".join(dict.fromkeys(outside)), tuple(inside), tuple(outside), "lists")
    faults = [f"--{side} {text}" for side, text in _names(split, donor_of)]
    faults += _across(split, donor_of, allow_donors)
    refuse_faults([*_unknown_donors(allow_donors, donor_of), *faults])
    return _ordered(split, donor_of)


def folds_of_file(
    path: Path, donor_of: Mapping[str, str], *, allow_donors: Sequence[str] = ()
) -> list[Split]:
    """Read folds from a table with the columns ``fold``, ``section`` and ``role``.

    Role is ``train`` or ``test``. A fold without a line of one role takes all other sections.

    Raises
    ------
    SheetError
        With all faults, each with its line or its fold.
    """
    frame = read_frame(path, required=COLUMNS, known=COLUMNS, aliases={})
    faults = list(frame.faults)
    sides: dict[str, dict[str, list[str]]] = {}
    for line, named in frame.rows:
        fold, section, role = (named.get(c, "") for c in COLUMNS)
        for column, value in zip(COLUMNS, (fold, section, role), strict=True):
            if not value:
                faults.append(f"line {line}, column {column}: is empty")
        if role and role not in {TRAIN, TEST}:
            faults.append(f"line {line}, column role: {role!r} is neither train nor test")
        if fold and section and role in {TRAIN, TEST}:
            sides.setdefault(fold, {TRAIN: [], TEST: []})[role].append(section)
    made = []
    for fold, side in sides.items():
        inside = side[TRAIN] or [s for s in donor_of if s not in side[TEST]]
        outside = side[TEST] or [s for s in donor_of if s not in side[TRAIN]]
        split = Split(fold, tuple(inside), tuple(outside), "lists")
        broken = [f"{part} {text}" for part, text in _names(split, donor_of)]
        broken += _across(split, donor_of, allow_donors)
        faults += [f"fold {fold}: {text}" for text in broken]
        made.append(_ordered(split, donor_of))
    faults += _unknown_donors(allow_donors, donor_of)
    if not faults and not made:
        faults.append("names no fold")
    if faults:
        raise SheetError(path, faults)
    return made


def chosen(folds: Sequence[Split], only: Iterable[str] | None) -> list[Split]:
    """Return the folds that are named, by name or by index from 0; all where `only` is None.

    A name goes before an index.

    Raises
    ------
    InputError
        If one does not exist; all of them are named.
    """
    if only is None:
        return list(folds)
    place = {str(i): i for i in range(len(folds))} | {s.name: i for i, s in enumerate(folds)}
    asked = list(only)
    unknown = [name for name in asked if name not in place]
    if unknown:
        raise InputError(
            f"no fold {', '.join(unknown)}",
            hint=f"there is {', '.join(s.name for s in folds)} (or 0 to {len(folds) - 1})",
        )
    wanted = {place[name] for name in asked}
    return [s for i, s in enumerate(folds) if i in wanted]


def refuse_faults(faults: Sequence[str]) -> None:
    """Refuse lists with faults, all of them in one line.

    Raises
    ------
    InputError
        Where there are any.
    """
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise InputError(
            f"{count} in the lists: " + " | ".join(faults), hint="correct and run again"
        )


def _names(split: Split, donor_of: Mapping[str, str]) -> list[tuple[str, str]]:
    """Faults of the names on each side."""
    found = []
    for side, names in ((TRAIN, split.train), (TEST, split.test)):
        if not names:
            found.append((side, "has no section"))
        for name in dict.fromkeys(names):
            if name not in donor_of:
                found.append((side, f"{name}: no such section (there is {', '.join(donor_of)})"))
            if names.count(name) > 1:
                found.append((side, f"{name}: stands {names.count(name)} times"))
    both = [s for s in dict.fromkeys(split.train) if s in split.test]
    return found + [(TEST, f"{name}: is in training too") for name in both]


def _across(split: Split, donor_of: Mapping[str, str], allowed: Sequence[str]) -> list[str]:
    """Donors that stand on both sides and are not allowed to."""
    inside = {donor_of[s]: s for s in reversed(split.train) if s in donor_of}
    found: dict[str, str] = {}
    for section in split.test:
        donor = donor_of.get(section)
        if donor in inside and donor not in allowed and section not in split.train:
            found.setdefault(
                donor,
                f"donor {donor} stands on both sides ({inside[donor]} and {section}): leave one "
                f"out, or allow it with --allow-donor {donor}",
            )
    return list(found.values())


def _unknown_donors(allowed: Sequence[str], donor_of: Mapping[str, str]) -> list[str]:
    known = sorted(set(donor_of.values()))
    return [
        f"--allow-donor {name}: no such donor (there is {', '.join(known)})"
        for name in dict.fromkeys(allowed)
        if name not in known
    ]


def _ordered(split: Split, donor_of: Mapping[str, str]) -> Split:
    """Return the split with both sides in the order of the sheet."""
    inside = tuple(s for s in donor_of if s in split.train)
    outside = tuple(s for s in donor_of if s in split.test)
    return Split(split.name, inside, outside, split.held_out)
