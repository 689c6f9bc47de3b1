"""The experiment of BLEEP's paper: three liver sections train, the fourth is imputed.

    python examples/liver_gse240429/run.py DATA --out OUT

Preprocessing, training, index, query, and the paper's table with and without the paper's leaks.
`README.md` beside this file says what DATA holds.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # so that it also runs when it is not started as a script

from leaks import Leaks, Published, run_published, variable_genes  # noqa: E402
from sections import HELD_OUT, write_sheet  # noqa: E402

from bleepdb.atlas import open_atlas, resolve  # noqa: E402
from bleepdb.encoders import FeatureSpec, load_backbone, save_model  # noqa: E402
from bleepdb.errors import BleepdbError  # noqa: E402
from bleepdb.evaluation import compare, predict_with  # noqa: E402
from bleepdb.files import write_json  # noqa: E402
from bleepdb.indexing import index_section  # noqa: E402
from bleepdb.metrics import mean_score, pearson_per_gene  # noqa: E402
from bleepdb.querying import Query, QuerySettings, query_slide, write_current  # noqa: E402
from bleepdb.run_card import make_run_card  # noqa: E402
from bleepdb.tissue import Spots, TileGeometry, load_section, read_sheet  # noqa: E402
from bleepdb.training import collect_pairs, fit  # noqa: E402
from bleepdb.training.tuning import Target  # noqa: E402
from bleepdb.view import measured_beside_imputed  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bleepdb.encoders import Model
    from bleepdb.panel import Panel
    from bleepdb.tissue import Section
    from bleepdb.training import Pairs

MARKERS = ("HAL", "CYP3A4", "VWF", "SOX9", "KRT7", "ANXA4", "ACTA2", "DCN")
TOP = 50
MG, HEG, HVG = "MG", "HEG", "HVG"
# Figures of the paper (Xie et al., NeurIPS 2023, table 1), from third-party notes on it. They were
# measured by others on the real sections, with another backbone, and with all of the leaks.
AS_PUBLISHED = {
    "BLEEP": (0.217, 0.175, 0.173),
    "ST-Net": (0.099, 0.126, 0.091),
    "HisToGene": (0.097, 0.072, 0.071),
}
LEAKY = {
    "bleep, its own code's way, no leak": Leaks(),
    "  + variable genes of all four": Leaks(variable_genes=True),
    "  + best epoch on a fifth of the spots": Leaks(best_epoch=True),
    "  + Harmony over all four": Leaks(harmony=True),
    "  + all three (as published)": Leaks(variable_genes=True, harmony=True, best_epoch=True),
}


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes
    ----------
    name
        Of the method.
    fair
        Scores by gene set where genes were chosen on the training sections.
    chosen_on_truth
        The same where they were chosen on the held-out section, as the paper's notebook does.
    genes
        How many genes the sets are chosen from.
    note
        What else there is to know.
    """

    name: str
    fair: dict[str, float]
    chosen_on_truth: dict[str, float]
    genes: int
    note: str = ""


def gene_sets(profiles: NDArray[np.float32], symbols: list[str]) -> dict[str, NDArray[np.int64]]:
    """Choose the paper's sets: its markers, the 50 of highest mean, the 50 of largest variance."""
    most = min(TOP, len(symbols) // 2)
    return {
        MG: np.array([symbols.index(m) for m in MARKERS if m in symbols], dtype=np.int64),
        HEG: np.argsort(-profiles.mean(axis=0), kind="stable")[:most],
        HVG: np.argsort(-profiles.var(axis=0), kind="stable")[:most],
    }


def score(
    name: str, values: NDArray[np.float32], truth: NDArray[np.float32],
    training: NDArray[np.float32], symbols: list[str], note: str = "",
) -> Row:  # fmt: skip
    """Correlate each gene over all spots of the held-out section, and take means over sets.

    A gene without a correlation counts as 0 and keeps its place; the published code drops it and
    indexes what is left with the old positions.
    """
    pcc = pearson_per_gene(values, truth)

    def means(sets: dict[str, NDArray[np.int64]]) -> dict[str, float]:
        return {key: mean_score(pcc[where])[0] for key, where in sets.items() if len(where)}

    return Row(
        name,
        means(gene_sets(training, symbols)),
        means(gene_sets(truth, symbols)),
        len(symbols),
        note,
    )


def fair_rows(name: str, model: Model, pairs: Pairs, genes: NDArray[np.int64], panel: Panel) -> Row:
    """Score a model of bleepdb that was fitted on the training sections."""
    target = Target(
        pairs.subset([n for n in pairs.names if n != HELD_OUT]), pairs.subset([HELD_OUT])
    )
    here = target.inside.panel.find([panel.symbols[i] for i in genes])
    outside = pairs.section_of_spot == pairs.names.index(HELD_OUT)
    return score(
        name,
        predict_with(model, target, np.asarray(here, dtype=np.int64)),
        pairs.profiles[outside][:, genes],
        pairs.profiles[~outside][:, genes],
        [panel.symbols[i] for i in genes],
    )


def leaky_row(name: str, run: Published, panel: Panel) -> Row:
    """Score a run of the published way."""
    symbols = [panel.symbols[i] for i in run.genes]
    return score(name, run.values, run.truth, run.training, symbols, f"epoch {run.epoch}")


def impute(
    sections: list[Section], model: Model, out: Path, genes: tuple[str, ...]
) -> tuple[Path, Path, str]:
    """Fill an atlas with the training sections, and impute the held-out slide from it."""
    target = next(s for s in sections if s.section == HELD_OUT)
    where = out / f"atlas_{model.space_id[:8]}"  # another run's model has another atlas
    with open_atlas(where, create=True) as atlas:
        for section in sections:
            if section is not target:
                index_section(section, model, atlas)
        query = Query(
            slide_path=target.slide_path,
            slide_mpp=target.slide_mpp,
            spots=Spots(target.barcodes, target.xy_px),
            library_id=target.section,
        )
        imputed = query_slide(
            query, model, atlas, resolve(atlas, "liver"), settings=QuerySettings(genes=genes)
        )
        imputed = write_current(imputed, atlas, out / "imputed.h5ad")
    found = compare(out / "imputed.h5ad", target)
    shown = [m for m in MARKERS if m in found.symbols][:4]
    columns = [found.symbols.index(m) for m in shown]
    measured_beside_imputed(
        found.measured[:, columns], found.imputed[:, columns], found.xy_px, shown,
        out / "genes.png",
        title=f"{HELD_OUT}: measured, and imputed from the other three",
        image=imputed.thumbnail, image_scale=imputed.thumbnail_scale,
    )  # fmt: skip
    markers = [found.symbols.index(m) for m in MARKERS if m in found.symbols]
    said = f"{found.places} places, {len(markers)} markers"
    return (
        where,
        out / "imputed.h5ad",
        f"{said}, mean r {mean_score(found.pcc[markers])[0]:.3f}",
    )


def show(rows: list[Row], missing: list[str]) -> str:
    """Return the table as text."""
    head = f"{'':44}{'genes chosen in training':>26}{'chosen on the truth':>26}"
    names = "".join(f"{s:>8}" for s in (MG, HEG, HVG))
    lines = [head, f"{'method':46}{names}  {names}"]
    for row in rows:
        cells = ["".join(f"{part.get(s, np.nan):8.3f}" for s in (MG, HEG, HVG))
                 for part in (row.fair, row.chosen_on_truth)]  # fmt: skip
        lines.append(f"{row.name:46}{cells[0]}  {cells[1]}   {row.note}".rstrip())
    lines += missing
    lines += [
        "",
        "as published, not measured here (real liver sections, trained ResNet50, all leaks):",
    ]
    lines += [
        f"{name:46}{'':26}" + "".join(f"{v:8.3f}" for v in values)
        for name, values in AS_PUBLISHED.items()
    ]
    return "\n".join(lines)


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="the BLEEP layout, or a folder of GEO's files")
    parser.add_argument("--out", type=Path, default=Path("liver_out"))
    parser.add_argument(
        "--encoder",
        default="timm:tf_efficientnet_lite0",
        help="the paper's is timm:resnet50 (fully trained; here frozen)",
    )
    parser.add_argument("--weights", help="the backbone's weights, a file")
    parser.add_argument(
        "--scale-um",
        type=float,
        action="append",
        help="edge of our tiles (repeatable); default 176 and 400",
    )
    parser.add_argument("--tile-px", type=int, default=224, help="of our tiles")
    parser.add_argument("--recipe", action="append", help="ours (repeatable); default linear")
    parser.add_argument("--epochs", type=int, default=150, help="of bleep")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()  # fmt: skip


def main() -> None:
    """Run all steps."""
    asked = parsed()
    out: Path = asked.out
    recipes = asked.recipe or ["linear"]

    print("1. preprocessing")
    sections = [load_section(row).section for row in read_sheet(write_sheet(asked.data, out))]
    for section in sections:
        print(f"   {section.section}: {len(section)} spots, {len(section.panel)} genes, "
              f"{section.slide_mpp:.4f} µm/px from {section.mpp_source}")  # fmt: skip
    backbone = load_backbone(asked.encoder, weights=asked.weights)
    native_um = round(224 * float(np.median([s.known_mpp for s in sections])), 1)
    scales = tuple(asked.scale_um or (176.0, 400.0))
    specs = {
        "ours": FeatureSpec.of(backbone, "multilevel", TileGeometry(scales, asked.tile_px)),
        "published": FeatureSpec.of(backbone, "penultimate", TileGeometry((native_um,), 224)),
    }
    ours, published = (
        collect_pairs(sections, spec, backbone, progress=counter(f"   tiles, {name} features"))
        for name, spec in specs.items()
    )
    inside = [n for n in published.names if n != HELD_OUT]
    panel, genes = published.panel, variable_genes(published, inside)

    print(f"2. training on {', '.join(inside)}; {HELD_OUT} is held out")
    models = {name: fit(ours.subset(inside), name, seed=asked.seed) for name in recipes}
    bleep = fit(published.subset(inside), "bleep", hyper={"epochs": asked.epochs}, seed=asked.seed)
    model = models[recipes[0]].described(licence=backbone.licence).calibrated(backbone)
    save_model(model, out / "model", overwrite=True)

    print(f"3. index and query ({recipes[0]})")
    wanted = tuple(m for m in MARKERS if m in panel.symbols)
    atlas, path, found = impute(sections, model, out, wanted)
    print(f"   {path}: {found}")

    print("4. the table")
    rows = [fair_rows(f"{n} (ours)", m, ours, genes, panel) for n, m in models.items()]
    rows.append(
        fair_rows("bleep (ours: nothing leaks, last epoch)", bleep, published, genes, panel)
    )
    missing = []
    for name, leaks in LEAKY.items():
        if leaks.harmony and find_spec("harmonypy") is None:
            missing.append(f"{name:46}left out: pip install harmonypy")
            continue
        run = run_published(published, HELD_OUT, leaks, epochs=asked.epochs, seed=asked.seed)
        rows.append(leaky_row(name, run, panel))
    text = show(rows, missing)
    print(text)
    write_json(
        out / "table.json",
        {
            "held_out": HELD_OUT, "markers": list(wanted), "variable_genes": len(genes),
            "rows": [vars(row) for row in rows], "left_out": missing,
            "as_published": {k: dict(zip((MG, HEG, HVG), v, strict=True))
                             for k, v in AS_PUBLISHED.items()},
            "run_card": make_run_card(),
        },
    )  # fmt: skip
    print(f"\nscores {out / 'table.json'}, model {out / 'model'}, atlas {atlas}, "
          f"imputed {path}, picture {out / 'genes.png'}")  # fmt: skip


def counter(text: str) -> Callable[[int, int], None]:
    """Return a progress callback that writes one line on stderr."""

    def move(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{text}: {done}/{total}", end=end, file=sys.stderr, flush=True)

    return move


if __name__ == "__main__":
    try:
        main()
    except BleepdbError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
