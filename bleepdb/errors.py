"""Every error that a person can cause, as one tree.

::

    BleepdbError                 exit code 2, one line, no traceback
    ├── InputError               a file, sheet, option or value that cannot be used
    │   ├── SheetError           the sample sheet (all faults at once)
    │   ├── SectionError         counts, positions, barcodes of one section
    │   ├── SlideError           pixels or microns of one slide
    │   └── GeneError            gene names and panels
    ├── ModelError               a model folder that is broken, foreign or unfit
    ├── AtlasError               an atlas location that cannot be used
    │   ├── AtlasLockedError     another process holds it
    │   ├── AtlasCorruptError    what is stored is not what was written
    │   ├── AtlasMovedError      what was searched was replaced or retracted meanwhile
    │   ├── EmptyAtlasError      nothing is live there
    │   ├── SpaceMismatchError   the model and the collection define different spaces
    │   └── PayloadError         an expression payload that does not decode
    └── MissingExtraError        an optional package is needed

The message says what is wrong, where, and what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class BleepdbError(Exception):
    """Something a person can mend.

    Parameters
    ----------
    what
        What is wrong, as a clause without a final full stop.
    where
        The file, and if known the place in it.
    hint
        The next step, as a clause without a final full stop.
    """

    def __init__(
        self, what: str, *, where: str | Path | None = None, hint: str | None = None
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = self.what if self.where is None else f"{self.where}: {self.what}"
        return text if self.hint is None else f"{text}; {self.hint}"


class InputError(BleepdbError):
    """A file, option or value that cannot be used."""


class SheetError(InputError):
    """Faults of a sample sheet, all of them.

    Parameters
    ----------
    path
        The sheet.
    faults
        One clause a fault, each naming its line and column.
    """

    def __init__(self, path: str | Path, faults: list[str]) -> None:
        self.faults = list(faults)
        count = f"{len(faults)} fault{'s' if len(faults) != 1 else ''}"
        super().__init__(
            f"{count}: " + " | ".join(faults), where=path, hint="correct the sheet and run again"
        )


class SectionError(InputError):
    """Counts, positions or barcodes of a section that cannot be used."""


class SlideError(InputError):
    """Pixels or microns of a slide that cannot be used."""


class GeneError(InputError):
    """Gene names or panels that cannot be used."""


class ModelError(BleepdbError):
    """A model folder that is broken, foreign or unfit."""


class AtlasError(BleepdbError):
    """An atlas location that cannot be used."""


class AtlasLockedError(AtlasError):
    """Another process holds the atlas."""


class AtlasCorruptError(AtlasError):
    """What is stored is not what was written."""


class AtlasMovedError(AtlasError):
    """What a reader rests on was replaced or retracted before it was done."""


class EmptyAtlasError(AtlasError):
    """Nothing is live in the collection that was asked."""


class SpaceMismatchError(AtlasError):
    """The model and the collection define different spaces."""


class PayloadError(AtlasError):
    """An expression payload that does not decode."""


class MissingExtraError(BleepdbError):
    """An optional package is needed."""
