"""What `bleepdb evaluate` gives: documents, pages, pictures and tables; and of two files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bleepdb.errors import InputError

from .evaluation_tables import show, show_comparison
from .inputs import one_row
from .render import note, print_json, write_out

if TYPE_CHECKING:
    from pathlib import Path

    from bleepdb.evaluation import Report


def give(
    report: Report,
    document: dict[str, Any],
    *,
    json_out: Path | None,
    html: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Write what was asked for, and show the tables or print the document."""
    if json_out is not None:
        from bleepdb.evaluation.document import write_document

        write_document(json_out, document)
    if html is not None:
        from bleepdb.view.evaluation_page import write_page

        write_page(document, html)
    if figure is not None:
        from bleepdb.view.evaluation_figures import draw_summary

        draw_summary(document, figure)
    if as_json:
        from bleepdb.evaluation.document import text_of

        write_out(text_of(document))
        return
    show(report)
    for what, path in (("whole report", json_out), ("page", html), ("picture", figure)):
        if path is not None:
            note(f"{what}: {path}")


def merge_folds(
    paths: list[Path],
    *,
    json_out: Path | None,
    html: Path | None,
    figure: Path | None,
    as_json: bool,
) -> None:
    """Put documents of single folds together, and give what was asked for."""
    from bleepdb.evaluation import merge_documents

    report = merge_documents(paths)
    give(report, report.to_json(), json_out=json_out, html=html, figure=figure, as_json=as_json)


def compare_files(
    pred: Path | None,
    truth: Path | None,
    *,
    json_out: Path | None,
    as_json: bool,
    slide_mpp: float | None,
    image: str | None,
    species: str | None,
    bin_um: float | None,
    allow_loss: bool,
) -> None:
    """Compare an imputed file with the measured section, and give what was asked for."""
    if pred is None or truth is None:
        raise InputError("--pred and --truth go together", hint="give both")
    if not pred.is_file():
        raise InputError("no such file", where=pred, hint="give the imputed .h5ad")
    from bleepdb.evaluation import compare
    from bleepdb.files import write_json
    from bleepdb.tissue import read_section

    section = read_section(
        one_row(truth, image=image, species=species),
        slide_mpp=slide_mpp,
        bin_um=bin_um,
        allow_loss=allow_loss,
    )
    comparison = compare(pred, section)
    document = comparison.to_json()
    if json_out is not None:
        write_json(json_out, document)
    if as_json:
        print_json(document)
        return
    show_comparison(comparison)
