"""The whole path from Python: made sections of three donors, an atlas of two, the third imputed.

    python examples/whole_path.py OUT_FOLDER

The same as `bleepdb demo`, smaller and step by step. With your own sections, start from your own
sample sheet.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bleepdb.atlas import open_atlas, resolve
from bleepdb.encoders import FeatureSpec, load_backbone, save_model
from bleepdb.explaining import explain, find_gene
from bleepdb.indexing import index_section
from bleepdb.querying import Query, QuerySettings, open_imputed, query_slide
from bleepdb.simulation import SimulationSettings, simulate, write
from bleepdb.tissue import Spots, TileGeometry, load_section, read_sheet
from bleepdb.training import collect_pairs, fit


def main(folder: Path) -> None:
    """Run all steps and print what came out."""
    sheet = write(simulate(SimulationSettings.tiny(), seed=0), folder)
    sections = [load_section(row).section for row in read_sheet(sheet)]
    training, held_out = sections[:2], sections[2]

    # Fields of 176 and 400 µm, small tiles: the made slides are coarse (1.6 µm a pixel).
    backbone = load_backbone("timm:tf_efficientnet_lite0")
    spec = FeatureSpec.of(backbone, "multilevel", TileGeometry((176.0, 400.0), tile_px=64))
    pairs = collect_pairs(training, spec, backbone)
    model = fit(pairs, "linear").described(licence=backbone.licence).calibrated(backbone)
    save_model(model, folder / "model", overwrite=True)

    with open_atlas(folder / "atlas", create=True) as atlas:
        for section in training:
            done = index_section(section, model, atlas)
            print(f"{section.section}: {done.outcome.status}, {done.spots} spots")
        query = Query(
            slide_path=held_out.slide_path,
            slide_mpp=held_out.slide_mpp,
            spots=Spots(held_out.barcodes, held_out.xy_px),
            donor=held_out.donor,
        )
        genes = QuerySettings(genes=("ERBB2", "COL1A1"))
        imputed = query_slide(query, model, atlas, resolve(atlas, "breast"), settings=genes)
        imputed.write(folder / "imputed.h5ad")
        opened = open_imputed(folder / "imputed.h5ad")
        reason = explain(opened, model, atlas, [(0, find_gene(opened, "ERBB2"))])[0]
    print(f"{reason.tile}: {reason.evidence.formula}")
    for row in reason.rows[:3]:
        print(f"  {row['donor']} {row['barcode']}: weight {row['weight']:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "whole_path_out"))
