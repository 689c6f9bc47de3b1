"""An imputed file beside a measured section: joined by name or by place, scored by gene."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bleepdb.errors import InputError
from bleepdb.evaluation import compare
from bleepdb.normalise import log1p_cp10k
from bleepdb.panel import Panel
from bleepdb.tissue import Section

N, G = 40, 30


@pytest.fixture
def truth():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 5.0, (N, G)))
    return Section(
        section="S",
        donor="D",
        tissue="breast",
        species="human",
        assay="visium",
        counts=sp.csr_matrix(counts),
        panel=Panel(("ERBB2", *(f"G{i}" for i in range(1, G)))),
        barcodes=np.array([f"b{i}" for i in range(N)]),
        xy_px=np.stack([np.arange(N) % 8, np.arange(N) // 8], axis=1) * 100.0 + 50,
        source=Path("nowhere"),
    )


def prediction(truth, names, *, rows=None, noise=0.3):
    rows = np.arange(N) if rows is None else rows
    values = log1p_cp10k(truth.counts.toarray(), truth.totals[:, None])[rows]
    values = values + np.random.default_rng(1).normal(0, noise, values.shape)
    return ad.AnnData(
        values.astype(np.float32),
        obs=pd.DataFrame(index=list(names)),
        var=pd.DataFrame(index=list(truth.panel.symbols)),
        obsm={"spatial": truth.xy_px[rows]},
    )


def write(made, path):
    made.write_h5ad(path)
    return path


def test_places_are_joined_by_name_in_any_order(truth, tmp_path):
    order = np.random.default_rng(2).permutation(N)
    made = prediction(truth, [f"b{i}" for i in order], rows=order)
    made = made[:, ::-1].copy()
    found = compare(write(made, tmp_path / "a.h5ad"), truth)
    assert (found.joined_by, found.places, found.of_predicted) == ("name", N, N)
    wanted = [
        np.corrcoef(np.asarray(made[np.argsort(order), s].X)[:, 0], found.measured[:, i])[0, 1]
        for i, s in enumerate(found.symbols)
    ]
    np.testing.assert_allclose(found.pcc, wanted, atol=1e-5)
    np.testing.assert_allclose(
        found.measured[:, found.symbols.index("G3")],
        log1p_cp10k(truth.counts[:, [3]].toarray().ravel(), truth.totals),
    )
    assert np.median(found.pcc) > 0.8
    np.testing.assert_array_equal(found.xy_px, truth.xy_px)


def test_a_prefix_is_passed_over_and_the_own_section_preferred(truth, tmp_path):
    found = compare(write(prediction(truth, [f"S:b{i}" for i in range(N)]), tmp_path / "a"), truth)
    assert (found.joined_by, found.places) == ("name", N)
    both = ad.concat(
        [
            prediction(truth, [f"other:b{i}" for i in range(N)], noise=5.0),
            prediction(truth, [f"S:b{i}" for i in range(N)]),
        ]
    )
    assert both.n_obs == 2 * N
    again = compare(write(both, tmp_path / "b"), truth)
    np.testing.assert_array_equal(again.pcc, found.pcc)


def test_barcodes_of_several_slides_are_never_mixed_up(truth, tmp_path):
    """Two slides with the same barcodes, neither the truth's: only places can tell."""
    far = prediction(truth, [f"x:b{i}" for i in range(N)], noise=5.0)
    far.obsm["spatial"] = far.obsm["spatial"] + 1e5
    near = prediction(truth, [f"y:b{i}" for i in range(N)])
    found = compare(write(ad.concat([far, near]), tmp_path / "a"), truth)
    assert found.joined_by == "position"
    assert np.median(found.pcc) > 0.8


def test_without_names_the_nearest_place_within_half_a_pitch(truth, tmp_path):
    rows = np.arange(0, N, 2)
    made = prediction(truth, [f"tile{i}" for i in rows], rows=rows)
    made.obsm["spatial"] = made.obsm["spatial"] + 30.0
    found = compare(write(made, tmp_path / "a"), truth)
    assert (found.joined_by, found.places, found.of_truth) == ("position", N // 2, N)
    assert np.median(found.pcc) > 0.8
    made.obsm["spatial"] = made.obsm["spatial"] + 300.0 * N
    with pytest.raises(InputError, match="0 of 40 measured spots"):
        compare(write(made, tmp_path / "b"), truth)


def test_sets_owe_nothing_to_the_truth(truth, tmp_path):
    made = prediction(truth, [f"b{i}" for i in range(N)])
    plain = compare(write(made, tmp_path / "a"), truth)
    assert [row[0] for row in plain.rows()] == ["all compared", "markers"]
    assert plain.rows()[1][1] == 1
    flags = np.full(G, np.nan)
    flags[[2, 5, 7]] = 1.0
    flags[[3, 4]] = 0.0
    made.var["predictable"] = flags
    made.X = sp.csr_matrix(made.X)
    found = compare(write(made, tmp_path / "b"), truth)
    name, genes, pcc, lost, top = found.rows()[1]
    assert (name, genes, lost) == ("predictable (by the card)", 3, 0)
    assert pcc == pytest.approx(found.pcc[[2, 5, 7]].mean())
    assert 0 < top <= 1
    np.testing.assert_allclose(found.pcc, plain.pcc)
    made.var["predictable"] = flags == 1.0
    again = compare(write(made, tmp_path / "c"), truth)
    np.testing.assert_array_equal(again.predictable, found.predictable)


def test_genes_without_values_count_as_zero(truth, tmp_path):
    made = prediction(truth, [f"b{i}" for i in range(N)])
    made.X[:, 4] = np.nan
    found = compare(write(made, tmp_path / "a"), truth)
    assert np.isnan(found.pcc[4])
    assert found.rows()[0][3] == 1
    document = found.to_json()
    json.dumps(document, allow_nan=False)
    assert document["genes"]["pcc"][4] is None
    assert document["sets"]["all compared"]["undefined_genes"] == 1


def test_files_that_cannot_be_compared_get_one_line(truth, tmp_path):
    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(b"not hdf5")
    with pytest.raises(InputError, match="damaged"):
        compare(bad, truth)
    with pytest.raises(InputError, match="no such file"):
        compare(tmp_path / "missing.h5ad", truth)
    made = prediction(truth, [f"b{i}" for i in range(N)])
    linked = write(made, tmp_path / "linked.h5ad")
    with h5py.File(linked, "r+") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink("elsewhere.h5", "/X")
    with pytest.raises(InputError, match="external link"):
        compare(linked, truth)
    empty = made.copy()
    empty.X = None
    with pytest.raises(InputError, match="no X"):
        compare(write(empty, tmp_path / "empty.h5ad"), truth)
    nowhere = made.copy()
    del nowhere.obsm["spatial"]
    with pytest.raises(InputError, match="obsm"):
        compare(write(nowhere, tmp_path / "nowhere.h5ad"), truth)
    foreign = made.copy()
    foreign.var_names = [f"Z{i}" for i in range(G)]
    with pytest.raises(InputError, match="no gene"):
        compare(write(foreign, tmp_path / "foreign.h5ad"), truth)
