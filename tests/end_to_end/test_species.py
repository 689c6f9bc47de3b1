"""The species of a section that is given without a sheet."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from bleepdb.cli.inputs import one_row, rows_of
from bleepdb.errors import GeneError, InputError
from bleepdb.tissue import read_section


@pytest.fixture
def of_a_mouse(tmp_path):
    made = ad.AnnData(np.ones((3, 2), np.float32))
    made.var_names = ["Actb", "Gapdh"]
    made.var["gene_ids"] = ["ENSMUSG00000000001", "ENSMUSG00000000002"]
    made.obsm["spatial"] = np.array([[0.0, 0.0], [900.0, 0.0], [0.0, 900.0]])
    made.write_h5ad(tmp_path / "m.h5ad")
    return tmp_path / "m.h5ad"


def test_it_reaches_the_reader(of_a_mouse):
    (row,) = rows_of(of_a_mouse, donor="P", tissue="any", species="mouse")
    assert read_section(row).species == "mouse"
    assert read_section(one_row(of_a_mouse, species="mouse")).species == "mouse"
    (row,) = rows_of(of_a_mouse, donor="P", tissue="any")
    with pytest.raises(GeneError, match="pass --species mouse"):
        read_section(row)


def test_a_sheet_says_its_own(tmp_path, of_a_mouse):
    sheet = tmp_path / "s.csv"
    sheet.write_text("section,donor,tissue,species,expression\nm,P,any,mouse,m.h5ad\n")
    assert read_section(rows_of(sheet)[0]).species == "mouse"
    with pytest.raises(InputError, match="--species cannot be given with a sample sheet"):
        rows_of(sheet, species="mouse")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "{}", "--out", "model", "--donor", "P", "--tissue", "any"),
        ("index", "{}", "--model", "m", "--atlas", "a", "--donor", "P", "--tissue", "any"),
        ("evaluate", "--pred", "{}", "--truth", "{}"),
    ],
)
def test_the_commands_take_it(tmp_path, of_a_mouse, monkeypatch, cli, words):
    monkeypatch.chdir(tmp_path)
    answer = cli(*(w.format(of_a_mouse) for w in words), "--species", "yeti")
    assert answer.code == 2
    assert "'yeti' is not known; use human, mouse, rat" in " ".join(answer.err.split())
