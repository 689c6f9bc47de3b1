"""Make a small set of the layout that the liver experiment has, so that it runs anywhere.

    python examples/liver_gse240429/make_small_set.py FOLDER

Four made sections of one donor on a Visium array (100 µm, rows offset), with images at 0.8 µm a
pixel that do not say so. Tissue and genes are bleepdb's simulator's, which knows a tumour and no
liver; eight genes carry the names of the paper's markers. Scores on it say nothing of livers.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from scipy.io import mmwrite

from bleepdb.simulation import SimulationSettings
from bleepdb.simulation.layout import disc_means, lay_out, spot_anatomy
from bleepdb.simulation.programmes import draw_programmes
from bleepdb.simulation.render import make_palette, render
from bleepdb.simulation.sections import draw_counts

SECTIONS = ("C73_A1", "C73_B1", "C73_C1", "C73_D1")
# The paper's markers in the place of genes that follow a compartment of the made tissue.
NAMES = {"ERBB2": "CYP3A4", "KRT8": "HAL", "CD74": "VWF", "KRT5": "KRT7", "KRT14": "SOX9",
         "EPCAM": "ANXA4"}  # fmt: skip
ROW_UM, COLUMN_UM = 100 * 3**0.5 / 2, 50.0


def array_of(field_um: float) -> tuple[np.ndarray, np.ndarray]:
    """(spots, 2) int (row, column) of a Visium array, and (spots, 2) centres (x, y) in µm."""
    rows, columns = np.mgrid[0 : int(field_um / ROW_UM), 0 : int(field_um / COLUMN_UM)]
    there = (rows + columns) % 2 == 0
    grid = np.column_stack([rows[there], columns[there]])
    return grid, np.column_stack([grid[:, 1] * COLUMN_UM, grid[:, 0] * ROW_UM]) + 40.0


def make(folder: Path, *, field_um: float, genes: int, seed: int) -> None:
    """Write the four sections."""
    settings = replace(
        SimulationSettings(),
        field_um=field_um, genes=genes, pitch_um=100.0, spot_diameter_um=55.0,
    )  # fmt: skip
    streams = np.random.SeedSequence(seed).spawn(2 + len(SECTIONS))
    rng = [np.random.default_rng(s) for s in streams]
    programmes = draw_programmes(genes, rng[0])
    palette = make_palette(settings, rng[1])
    symbols = [NAMES.get(s, s) for s in programmes.symbols]
    rna = np.array([c.rna for c in settings.compartments])
    grid, xy_um = array_of(field_um)
    names = [f"{''.join('ACGT'[(i >> 2 * k) & 3] for k in range(8))}-1" for i in range(len(grid))]
    for number, (section, own) in enumerate(zip(SECTIONS, rng[2:], strict=True), start=1):
        layout = lay_out(settings, own)
        on = disc_means(layout.tissue[None].astype(float), xy_um, 55.0)[:, 0] >= 0.7
        # Sections of one donor differ in depth and stain: something for a batch correction.
        donor = replace(
            settings.donors[0],
            depth=settings.donors[0].depth * float(np.exp(own.normal(0, 0.3))),
            strength=(float(own.uniform(0.9, 1.1)), float(own.uniform(0.9, 1.1))),
        )
        shares, gradients = spot_anatomy(settings, layout, xy_um[on])
        rates, amount = programmes.rates(shares, gradients, rna)
        counts = draw_counts(settings, donor, rates, amount, own)
        image = render(settings, layout, palette, donor, own)

        matrix = folder / "data" / "filtered_expression_matrices" / str(number)
        places = folder / "data" / "tissue_pos_matrices"
        for place in (matrix, places, folder / "image"):
            place.mkdir(parents=True, exist_ok=True)
        inside = [n for n, there in zip(names, on, strict=True) if there]
        order = np.argsort(inside)  # barcodes stand in alphabetical order
        mmwrite(matrix / "matrix.mtx", counts[order].T.tocoo(), field="integer")
        (matrix / "barcodes.tsv").write_text("".join(f"{inside[i]}\n" for i in order))
        (matrix / "features.tsv").write_text(
            "".join(f"ENSG{i:011d}\t{s}\tGene Expression\n" for i, s in enumerate(symbols, start=1))
        )
        with (places / f"tissue_positions_list_{number}.csv").open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            for name, there, (row, column), (x, y) in zip(
                names, on, grid.tolist(), np.rint(xy_um / settings.mpp).astype(int), strict=True
            ):
                table.writerow((name, int(there), row, column, y, x))
        tifffile.imwrite(
            folder / "image" / f"GEX_{section}_Merged.tif", image,
            photometric="rgb", tile=(256, 256), compression="zlib",
        )  # fmt: skip
        print(f"{section}: {on.sum()} spots, {genes} genes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--field-um", type=float, default=1400.0, help="edge of a section")
    parser.add_argument("--genes", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    make(asked.folder, field_um=asked.field_um, genes=asked.genes, seed=asked.seed)
