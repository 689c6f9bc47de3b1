"""A simulation as files: what a lab would have, and beside it the truth."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from PIL import Image

from bleepdb.files import whole_file
from bleepdb.names import SPATIAL
from bleepdb.simulation.truth import write_truth

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.simulation.sections import SimulatedSection, Simulation

SHEET = "samples.csv"
COLUMNS = (
    "section", "donor", "tissue", "species", "assay", "expression", "image", "mpp", "stain",
)  # fmt: skip


def write(simulation: Simulation, folder: Path) -> Path:
    """Write a sample sheet and, for each section, counts, image and truth.

    A section's files are ``NAME.h5ad``, ``NAME.jpg`` and ``NAME.truth.h5``. Each appears whole
    or not at all, and the sheet comes last, so that where it stands all it names stands too. Its
    paths are relative to `folder`. The same simulation gives the same bytes.

    Parameters
    ----------
    simulation
        What `simulate` made.
    folder
        Where to; made if it is missing. Files of the same name are replaced.

    Returns
    -------
    Path
        The sample sheet.
    """
    settings = simulation.settings
    lines = io.StringIO()
    table = csv.writer(lines, lineterminator="\n")
    table.writerow(COLUMNS)
    for made in simulation.sections:
        counts, image = f"{made.section}.h5ad", f"{made.section}.jpg"
        with whole_file(folder / counts) as part:
            _annotated(simulation, made).write_h5ad(part, compression="gzip")
        with whole_file(folder / image) as part:
            # Whole chroma: stains differ in colour at the scale of a nucleus.
            Image.fromarray(made.image).save(part, quality=settings.jpeg_quality, subsampling=0)
        write_truth(made, folder / f"{made.section}.truth.h5")
        table.writerow(
            (made.section, made.donor.name, settings.tissue, settings.species, settings.assay,
             counts, image, settings.mpp, made.donor.stain)
        )  # fmt: skip
    with whole_file(folder / SHEET) as part:
        part.write_text(lines.getvalue(), encoding="utf-8")
    return folder / SHEET


def _annotated(simulation: Simulation, made: SimulatedSection) -> ad.AnnData:
    settings = simulation.settings
    data = ad.AnnData(
        X=made.counts.astype(np.int32),
        obs=pd.DataFrame(
            {"in_tissue": np.ones(len(made), dtype=np.int8)}, index=made.barcodes.tolist()
        ),
        var=pd.DataFrame(index=list(made.symbols)),
    )
    data.obsm[SPATIAL] = made.xy_px
    data.uns[SPATIAL] = {
        made.section: {
            "scalefactors": {
                "spot_diameter_fullres": settings.spot_diameter_um / settings.mpp,
                "microns_per_pixel": settings.mpp,
            }
        }
    }
    data.uns["simulation"] = {"version": settings.version, "seed": simulation.seed}
    return data
