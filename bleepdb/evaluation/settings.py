"""How an evaluation is run, and the folds and rows that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from bleepdb.errors import InputError
from bleepdb.evaluation.splitting import (
    AUTO,
    LISTS,
    chosen,
    fold_of_lists,
    folds_by,
    folds_of_file,
    resolve,
)
from bleepdb.training.recipes.registry import RECIPES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bleepdb.splits import Split

DEFAULT_RECIPES: Final = tuple(n for n in ("linear", "kernel", "average") if n in RECIPES)


@dataclass(frozen=True)
class Settings:
    """How an evaluation is run.

    Attributes
    ----------
    by
        What is held out: ``"donor"``, ``"section"``, or ``"auto"``, which is by donor where there
        are two or more. Lists go before it.
    permutations
        Shuffles of the pairs for the null; 0 for none.
    seed, seeds
        The first seed, and how many: methods that draw are run once for each, and their scores
        are means over them. The first one is also that of shuffles, bootstrap draws and thinning.
    epochs
        Of the bleep recipe.
    only
        Folds to run, by name or by index from 0; None for all.
    recipes
        Names of recipes, or .py files that define one. The first is ours, which the others and
        the baselines are compared with.
    methods
        Names or families of baselines; ``"short"`` for few, ``"all"``. None for all.
    train, test
        Sections of the one fold that lists name; where one is empty it takes all others.
    splits
        A table of folds, instead of lists.
    allow_donors
        Donors that may stand on both sides of a list.
    allow_twins
        ``A=B``: near-duplicate sections that may stand on two sides of a split.
    keep_values
        Keep the imputed values of each fold, for pictures; they take spots times genes.
    """

    by: str = AUTO
    permutations: int = 100
    seed: int = 0
    seeds: int = 1
    epochs: int = 150
    only: tuple[str, ...] | None = None
    recipes: tuple[str, ...] = DEFAULT_RECIPES
    methods: tuple[str, ...] | None = None
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    splits: Path | None = None
    allow_donors: tuple[str, ...] = ()
    allow_twins: tuple[str, ...] = ()
    keep_values: bool = False

    def __post_init__(self) -> None:
        resolve(self.by, {})
        if self.permutations < 0 or self.epochs < 1 or self.seed < 0 or self.seeds < 1:
            raise InputError(
                f"{self.permutations} permutations, {self.epochs} epochs, seed {self.seed}, "
                f"{self.seeds} seeds",
                hint="give 0 or more, 1 or more, 0 or more, and 1 or more",
            )
        if not self.recipes:
            raise InputError("no recipe to evaluate", hint="name one")
        if self.splits is not None and (self.train or self.test):
            raise InputError(
                "lists of sections and a table of folds both say what is held out",
                hint="leave one of them out",
            )
        if self.lists and self.by != AUTO:
            raise InputError(
                f"lists say what is held out, and so does {self.by!r}", hint="leave one of them out"
            )
        if self.allow_donors and not self.lists:
            raise InputError(
                "a donor can be allowed on both sides of lists only",
                hint="name sections to train and to test, or leave it out",
            )

    @property
    def lists(self) -> bool:
        """Whether a person named the folds."""
        return bool(self.train or self.test or self.splits is not None)

    @property
    def drawn(self) -> tuple[int, ...]:
        """All seeds."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def held_out(self, donor_of: Mapping[str, str]) -> tuple[str, str]:
        """Say what is held out (``"donor"``, ``"section"`` or ``"lists"``), and why."""
        return (LISTS, "as listed") if self.lists else resolve(self.by, donor_of)

    @cached_property
    def _read(self) -> dict[tuple[tuple[str, str], ...], list[Split]]:
        """Folds of the table, read once: it may be a pipe, or change while folds are run."""
        return {}

    def planned(self, donor_of: Mapping[str, str]) -> list[Split]:
        """All folds, whichever of them are run.

        Raises
        ------
        InputError
            If there are too few sections or donors, or lists have faults.
        """
        if self.splits is not None:
            asked = tuple(donor_of.items())
            if asked not in self._read:
                found = folds_of_file(self.splits, donor_of, allow_donors=self.allow_donors)
                self._read[asked] = found
            return list(self._read[asked])
        if self.lists:
            return [fold_of_lists(self.train, self.test, donor_of, allow_donors=self.allow_donors)]
        return folds_by(self.by, donor_of)


def folds_of(donor_of: Mapping[str, str], settings: Settings) -> list[Split]:
    """Return the folds that are run, for sections that need not be read yet.

    Parameters
    ----------
    donor_of
        Section -> donor.
    settings
        How.

    Raises
    ------
    InputError
        If there are too few sections or donors, lists have faults, or a fold that was named does
        not exist.
    """
    return chosen(settings.planned(donor_of), settings.only)
