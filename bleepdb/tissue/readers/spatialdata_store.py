"""Sections from SpatialData stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bleepdb.errors import SectionError

if TYPE_CHECKING:
    from bleepdb.tissue.section import Section
    from bleepdb.tissue.sheet import SheetRow


def read_spatialdata(
    row: SheetRow,
    *,
    slide_mpp: float | None = None,
    bin_um: float | None = None,
    allow_loss: bool = False,
) -> Section:
    """Read a section from a SpatialData store."""
    raise SectionError("SpatialData is not read yet", where=row.expression)
