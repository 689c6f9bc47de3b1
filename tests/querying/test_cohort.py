"""The cohort table is what pandas makes of the imputed files, and is taken over where it holds."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bleepdb import names
from bleepdb.errors import InputError
from bleepdb.querying import Query, QuerySettings, query_slide
from bleepdb.querying import cohort as tabling
from bleepdb.querying.cohort import PERCENTILES, SCHEMA, merge_cohort, summary_of
from bleepdb.tissue import Spots

values = st.one_of(st.floats(-5, 5, width=32), st.just(float("nan")), st.sampled_from([0.0, 1.0]))


@settings(deadline=None, max_examples=80)
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(1, 4)), elements=values))
def test_summaries_are_those_of_pandas(X):
    made, frame = summary_of(X), pd.DataFrame(X).astype(np.float64)
    np.testing.assert_allclose(made.mean, frame.mean().to_numpy(), atol=1e-5)
    for i, percent in enumerate(PERCENTILES):
        wanted = frame.quantile(percent / 100).to_numpy()
        np.testing.assert_allclose(made.percentiles[:, i], wanted, atol=1e-5)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(made.measured_share, frame.notna().mean().to_numpy())


@pytest.fixture
def results(small, tmp_path):
    """Two imputed slides; on one, some tiles lack values of a gene; the other knows scores."""
    n = len(small.model.panel)
    scores = {
        "pcc": [None, *np.linspace(-0.2, 0.9, n - 1).tolist()],
        "noise_ceiling": [0.9] * n,
        "predictable": [None, *(float(i % 3 == 0) for i in range(n - 1))],
    }
    scored = small.model.with_scores({"genes": scores})
    for section, name, model in (
        (small.sections[2], "first", small.model), (small.sections[1], "second", scored),
    ):  # fmt: skip
        query = Query(
            slide_path=section.slide_path,
            slide_mpp=section.slide_mpp,
            spots=Spots(section.barcodes, section.xy_px),
            library_id=name,
            donor=section.donor,
        )
        (collection,) = small.atlas.collections()
        made = query_slide(
            query, model, small.atlas, collection, settings=QuerySettings(genes="model")
        )
        made.write(tmp_path / f"{name}.h5ad")
    import h5py

    with h5py.File(tmp_path / "first.h5ad", "r+") as file:
        file["X"][:10, 3] = np.nan
        file["X"][:, 4] = np.nan
        file["obs"][names.OOD][:5] = True
    return tmp_path


def oracle(path):
    made = ad.read_h5ad(path)
    frame = made.to_df().astype(np.float64)
    q = frame.quantile([p / 100 for p in PERCENTILES]).T
    q.columns = [f"p{p:02d}" for p in PERCENTILES]
    known = made.obs[names.OOD_SCORE].notna()
    return q.assign(
        mean=frame.mean(),
        measured_share=frame.notna().mean(),
        **{name: made.var[name] for name in names.HELD_OUT_SCORES if name in made.var},
        gene_id=made.var[names.GENE_IDS].astype(str),
        tiles=made.n_obs,
        ood_share=made.obs.loc[known, names.OOD].mean() if known.any() else np.nan,
        effective_donors=made.obs[names.EFFECTIVE_DONORS].median(),
        slide=path.stem,
    )


def test_the_table_is_that_of_the_files(results, monkeypatch):
    monkeypatch.setattr(tabling, "BLOCK_BYTES", 4 * 16 * 48)  # several blocks of genes
    made = merge_cohort(results, results / "all.parquet")
    assert made.slides == ("first", "second")
    table = pq.read_table(results / "all.parquet")
    assert table.schema.equals(SCHEMA, check_metadata=True)
    frame = table.to_pandas()
    assert frame.isna().any().any()
    for name in made.slides:
        wanted = oracle(results / f"{name}.h5ad")
        found = frame[frame["slide"] == name].set_index("gene")
        assert found.index.tolist() == wanted.index.tolist()
        for column in wanted:
            if wanted[column].dtype.kind == "f":
                np.testing.assert_allclose(
                    found[column], wanted[column].astype(float), atol=2e-5, err_msg=column
                )
            else:
                assert (found[column] == wanted[column]).all(), column
        assert found["run"].nunique() == 1
    unscored = frame[frame["slide"] == "first"][list(names.HELD_OUT_SCORES)]
    assert unscored.isna().all(axis=None)
    scored = frame[frame["slide"] == "second"]
    assert scored["pcc"].isna().tolist() == [True] + [False] * (len(scored) - 1)
    assert 0 < scored["predictable"].sum() < len(scored)
    assert frame.groupby("slide")["donor"].first().tolist() == ["donor-c", "donor-b"]
    assert frame[frame["slide"] == "first"]["ood_share"].iloc[0] >= 5 / 60


def test_rows_that_hold_are_taken_over_and_others_are_not(results, monkeypatch):
    merge_cohort(results, results / "cohort-1-of-1.parquet")
    computed = []
    real = tabling.cohort_rows

    def watched(path):
        computed.append(path.stem)
        return real(path)

    monkeypatch.setattr(tabling, "cohort_rows", watched)
    merge_cohort(results, results / "again.parquet")
    assert computed == []
    one, other = (
        pq.read_table(results / f"{n}.parquet").to_pandas() for n in ("again", "cohort-1-of-1")
    )
    pd.testing.assert_frame_equal(one, other)
    # Another run of a slide, under the same name: its rows are made anew.
    import json

    import h5py

    with h5py.File(results / "first.h5ad", "r+") as file:
        card = json.loads(file["uns/bleepdb/run_card"][()])
        card["created"] = "2020-01-01T00:00:00+00:00"
        del file["uns/bleepdb/run_card"]
        file["uns/bleepdb/run_card"] = json.dumps(card)
    merge_cohort(results, results / "again.parquet")
    assert computed == ["first"]
    (results / "cohort-1-of-1.parquet").write_bytes(b"PAR1 damaged")
    merge_cohort(results, results / "again.parquet")
    assert computed == ["first", "first", "second"]


def test_files_of_other_origin_are_left_out_and_said(results, tmp_path):
    (results / "notes.h5ad").write_text("no HDF5")
    ad.AnnData(np.ones((2, 2), np.float32)).write_h5ad(results / "other.h5ad")
    made = merge_cohort(results, results / "all.parquet")
    assert [name for name, _ in made.left_out] == ["notes.h5ad", "other.h5ad"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no imputed slide"):
        merge_cohort(empty, empty / "all.parquet")
    assert list(empty.iterdir()) == []
    with pytest.raises(InputError, match="no such folder"):
        merge_cohort(tmp_path / "none", tmp_path / "all.parquet")
