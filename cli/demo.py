"""`bleepdb demo`: the whole path on sections that it makes, or on real ones."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bleepdb.errors import InputError

from .inputs import MOST_SEED, load_all, refuse_place
from .render import bar, note, out, stages
from .train import DEFAULT_ENCODER, DEFAULT_SCALES_UM, EncoderOption, WeightsOption

if TYPE_CHECKING:
    from bleepdb.evaluation import Comparison
    from bleepdb.querying import Imputed
    from bleepdb.tissue import Section, SheetRow
    from bleepdb.training import Pairs

SIMULATED, HER2ST = "simulated", "her2st"
TISSUE = "breast"
PICTURED = ("ERBB2", "KRT8", "COL1A1", "CD74", "IGKC", "FASN", "SPARC", "KRT19")
SEED = 2023
MADE_SCALES_UM = (176.0, 400.0)  # smaller tiles would enlarge made slides 1.6 times
DEMO_METHODS = ("short",)  # a family would be all its rows, and bleep trains its heads for each


def demo(
    out_folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for everything that the demo makes.")
    ] = Path("demo_out"),
    dataset: Annotated[
        str, typer.Option("--dataset", help="simulated, or her2st (four real sections).")
    ] = SIMULATED,
    encoder: EncoderOption = DEFAULT_ENCODER,
    weights: WeightsOption = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=MOST_SEED, help="Of the made sections.")
    ] = SEED,
    permutations: Annotated[
        int, typer.Option("--permutations", min=0, help="Shuffles of the pairs for the null.")
    ] = 100,
) -> None:
    """Train, index, query and evaluate, end to end, on an embedded atlas.

    By default on made sections of three donors with a known truth: two donors train and fill the
    atlas, the third is imputed. `--dataset her2st` takes four real sections of one donor, from
    BLEEPDB_TEST_DATA, ../shared/data or a download, and imputes the last.
    """
    if dataset not in {SIMULATED, HER2ST}:
        raise InputError(f"no dataset {dataset!r}", hint=f"choose {SIMULATED} or {HER2ST}")
    _refuse(out_folder)
    from bleepdb.atlas import open_atlas, resolve
    from bleepdb.encoders import load_backbone, save_model
    from bleepdb.evaluation import Report, Settings, compare, known_ceiling, run
    from bleepdb.evaluation.document import write_document
    from bleepdb.indexing import index_section
    from bleepdb.querying import Query, QuerySettings, query_slide, write_current
    from bleepdb.tissue import Spots, read_sheet
    from bleepdb.training import fit

    from .evaluation_tables import show, show_comparison

    begun = time.monotonic()
    load_backbone(encoder, weights=weights)  # what is missing is said before the work begins
    sheet = _sheet(dataset, out_folder, seed)
    rows = read_sheet(sheet)
    held, by = _held_out(rows, dataset)
    sections = load_all(rows, slide_mpp=None, min_counts=10, min_genes=5)

    note(f"training on all but {', '.join(held)}")
    ours, published = _encoded(sections, dataset, encoder, weights)
    train_on = [s for s in sections if s.section not in held]
    backbone = load_backbone(encoder, weights=weights)
    with bar("fitting linear") as move:
        model = fit(ours.subset([s.section for s in train_on]), seed=0, progress=move)
    model = model.described(licence=backbone.licence).calibrated(backbone)
    save_model(model, out_folder / "model", overwrite=True)

    target = next(s for s in sections if s.section in held)
    assert target.slide_path is not None  # noqa: S101 - the sheets above name images
    with open_atlas(out_folder / "atlas", create=True) as atlas:
        for section in train_on:
            with bar(f"indexing {section.section}") as move:
                index_section(section, model, atlas, progress=move)
        collection = resolve(atlas, TISSUE)
        query = Query(
            slide_path=target.slide_path,
            slide_mpp=target.slide_mpp,
            spots=Spots(target.barcodes, target.xy_px),
            library_id=target.section,
            donor=target.donor if by == "donor" else None,
        )
        with bar(f"querying {target.section}") as move:
            imputed = query_slide(
                query,
                model,
                atlas,
                collection,
                settings=QuerySettings(genes="model"),
                progress=lambda _: move,
            )
        path = out_folder / "imputed.h5ad"
        imputed = write_current(imputed, atlas, path)

    comparison = compare(path, target)
    genes = _picture(comparison, imputed, target, train_on, by, out_folder / "genes.png")
    settings = Settings(
        by=by, permutations=permutations, only=(_fold_name(rows, held, by),), recipes=("linear",),
        methods=DEMO_METHODS,
    )  # fmt: skip
    with stages("evaluating beside the baselines") as move:
        folds = run(ours, published, settings, progress=move)
    report = Report.of(folds, settings, ours, published)
    ceiling = None
    if dataset == SIMULATED:
        truths = {name: out_folder / f"{name}.truth.h5" for name in held}
        ceiling = known_ceiling(folds[0], ours.subset(held), truths)
    document = report.to_json()
    if ceiling is not None:
        document["known_ceiling"] = ceiling
    write_document(out_folder / "evaluation.json", document)
    show(report, ceiling=ceiling)
    show_comparison(comparison)
    out.print(
        f"model {out_folder / 'model'}, atlas {out_folder / 'atlas'}, imputed {path}, "
        f"picture {out_folder / 'genes.png'}, scores {out_folder / 'evaluation.json'}",
        soft_wrap=True,
    )
    note(f"done in {time.monotonic() - begun:.0f} s")
    note(f"next: bleepdb explain {path} --tile {target.barcodes[0]} --gene {genes[0]}")


def _encoded(
    sections: list[Section], dataset: str, encoder: str, weights: str | None
) -> tuple[Pairs, Pairs]:
    """Encode on our features, and on published ones."""
    from bleepdb.evaluation import Features

    scales_um = MADE_SCALES_UM if dataset == SIMULATED else DEFAULT_SCALES_UM
    features = Features(encoder, weights, scales_um=scales_um)
    with bar("encoding tiles") as move:
        ours = features.ours(sections, progress=move)
    with bar("encoding tiles, published features") as move:
        return ours, features.published(sections, progress=move)


def _picture(
    comparison: Comparison,
    imputed: Imputed,
    target: Section,
    train_on: list[Section],
    by: str,
    path: Path,
) -> list[str]:
    """Draw four genes, measured beside imputed; return their names."""
    from bleepdb.view import measured_beside_imputed

    genes = [g for g in PICTURED if g in comparison.symbols][:4]
    columns = [comparison.symbols.index(g) for g in genes]
    donors = len({s.donor for s in train_on})
    source = f"{donors} other donors" if by == "donor" else f"{len(train_on)} other sections"
    measured_beside_imputed(
        comparison.measured[:, columns],
        comparison.imputed[:, columns],
        comparison.xy_px,
        genes,
        path,
        title=f"{target.section}: measured, and imputed from {source}",
        image=imputed.thumbnail,
        image_scale=imputed.thumbnail_scale,
    )
    return genes


def _refuse(folder: Path) -> None:
    """Leave a folder alone that the demo did not make."""
    if folder.exists() and not folder.is_dir():
        raise InputError("is a file", where=folder, hint="pass --out NEW")
    refuse_place(folder)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "samples.csv").is_file():
        raise InputError(
            "holds something that the demo did not make", where=folder, hint="pass --out NEW"
        )


def _sheet(dataset: str, folder: Path, seed: int) -> Path:
    from bleepdb import datasets
    from bleepdb.files import whole_file
    from bleepdb.simulation import simulate, write

    if dataset == SIMULATED:
        with bar("making sections of three donors") as move:
            return write(simulate(seed=seed, progress=move), folder)
    with bar("finding the her2st sections") as move:
        found = datasets.her2st_folder(progress=move)
    sheet = folder / "samples.csv"
    with whole_file(sheet) as part:
        part.write_text(datasets.her2st_sheet(found), encoding="utf-8")
    return sheet


def _held_out(rows: list[SheetRow], dataset: str) -> tuple[list[str], str]:
    """Sections that are imputed, and whether a donor or a section is held out."""
    if dataset == HER2ST:
        return [rows[-1].section], "section"
    return [r.section for r in rows if r.donor == rows[-1].donor], "donor"


def _fold_name(rows: list[SheetRow], held: list[str], by: str) -> str:
    return held[0] if by == "section" else rows[-1].donor
