"""The imputed file: rows of W padded and back, files of other origin refused, settings checked."""

from __future__ import annotations

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from bleepdb import names
from bleepdb.errors import InputError
from bleepdb.querying import Query, QuerySettings, open_imputed, query_slide
from bleepdb.querying.output import from_padded, padded_rows
from bleepdb.tissue import Spots


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.integers(0, 7), st.integers(1, 9), st.floats(0, 1))
def test_rows_come_back_from_their_padding(seed, n, references, share):
    W = sp.random(n, references, density=share, random_state=seed, format="csr", dtype=np.float32)
    W.data -= np.float32(0.5)  # signed, as local weights are
    W.eliminate_zeros()
    columns, weights = padded_rows(W)
    assert columns.shape == weights.shape == (n, max(1, np.diff(W.indptr).max(initial=0)))
    assert (weights[columns < 0] == 0).all()
    assert (np.diff(np.abs(weights), axis=1) <= 0).all()  # heaviest first
    assert ((columns >= 0).sum(axis=1) == np.diff(W.indptr)).all()
    np.testing.assert_array_equal(from_padded(columns, weights, references).toarray(), W.toarray())


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    section = small.sections[2]
    query = Query(
        slide_path=section.slide_path,
        slide_mpp=section.slide_mpp,
        spots=Spots(section.barcodes, section.xy_px),
        library_id=section.section,
    )
    chosen = QuerySettings(genes="model")
    (collection,) = small.atlas.collections()
    made = query_slide(query, small.model, small.atlas, collection, settings=chosen)
    path = tmp_path_factory.mktemp("written") / "imputed.h5ad"
    made.write(path)
    return made, path


def test_what_was_written_is_read_back(written):
    made, path = written
    opened = open_imputed(path)
    np.testing.assert_array_equal(opened.weights.toarray(), made.weights.toarray())
    assert opened.references.index.tolist() == made.references.index.tolist()
    np.testing.assert_array_equal(opened.xy_px, made.xy_px)
    values = made.values()
    assert opened.value(3, 5) == values[3, 5]
    np.testing.assert_array_equal(ad.read_h5ad(path).X, values)


def lacking(frame, part):
    if part == "references":
        del frame.uns[names.UNS_KEY][names.REFERENCES_KEY]
    elif part == "entry":
        frame.uns[names.UNS_KEY] = "something else"
    elif part == "listed":
        table = frame.uns[names.UNS_KEY][names.REFERENCES_KEY]
        frame.uns[names.UNS_KEY][names.REFERENCES_KEY] = table.iloc[:2]
    else:
        del frame.obsm[part]
    return frame


@pytest.mark.parametrize(
    "part",
    ["references", "entry", "listed", names.SPATIAL, names.NEIGHBOURS_KEY, names.WEIGHTS_KEY],
)
def test_a_file_that_lacks_a_part_gets_one_line(written, tmp_path, part):
    path = tmp_path / "other.h5ad"
    lacking(ad.read_h5ad(written[1]), part).write_h5ad(path)
    with pytest.raises(InputError, match="reference spots") as caught:
        open_imputed(path)
    assert "other.h5ad" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_origin_are_refused(written, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_imputed(tmp_path / "none.h5ad")
    text = tmp_path / "text.h5ad"
    text.write_text("not HDF5")
    with pytest.raises(InputError, match="cannot be read"):
        open_imputed(text)
    short = tmp_path / "short.h5ad"
    short.write_bytes(written[1].read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot be read"):
        open_imputed(short)
    foreign = tmp_path / "foreign.h5ad"
    ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame(index=list("abc"))).write_h5ad(foreign)
    with pytest.raises(InputError, match="no weights"):
        open_imputed(foreign)
    linked = tmp_path / "linked.h5ad"
    linked.write_bytes(foreign.read_bytes())
    with h5py.File(linked, "a") as file:
        file["obsm/elsewhere"] = h5py.ExternalLink(str(written[1]), "/obsm/spatial")
    with pytest.raises(InputError):
        open_imputed(linked)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"method": "median"}, "unknown method 'median'"),
        ({"k": 0}, "0 neighbours"),
        ({"temperature": 0.0}, "temperature 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"ridge": -1.0}, "ridge -1"),
        ({"smoothing": 1.5}, "smoothing 1.5"),
        ({"smoothing": float("nan")}, "smoothing nan"),
        ({"genes": "some"}, "no set of genes 'some'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        QuerySettings(**wrong)


def test_settings_at_their_bounds_are_taken():
    QuerySettings(method="local", k=1, temperature=1e-6, ridge=1e-9, smoothing=0.0, genes="all")
    QuerySettings(smoothing=1.0, genes=("ERBB2",))
