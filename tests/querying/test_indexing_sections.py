"""Sections into an atlas: panels, fields and what is refused before anything is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bleepdb.admission import check_fields
from bleepdb.atlas import ExactAtlas, fetch_profiles, get_panel, pin
from bleepdb.errors import BleepdbError, GeneError, InputError, SectionError
from bleepdb.indexing import index_section, model_profiles, stored_panel
from bleepdb.panel import Panel


def shuffled(section, seed=0):
    """The same section with its genes in another order."""
    order = np.random.default_rng(seed).permutation(len(section.panel))
    return replace(
        section, panel=section.panel.take(order), counts=section.counts[:, order].tocsr()
    )


def stored(atlas, name):
    """Ids and raw counts of a section's live spots by barcode and symbol."""
    (collection,) = atlas.collections()
    pinned = pin(atlas, collection)
    where = pinned.where.also(must={"section": [name]})
    ids = [r.id for page in atlas.scroll(collection, where=where, fields=[]) for r in page]
    found = fetch_profiles(atlas, collection, ids)
    assert len(found.panels) == 1
    row = {b: i for i, b in enumerate(found.barcode.tolist())}
    return found, row, found.counts[0].toarray()


def test_the_same_genes_in_another_order_reuse_the_stored_panel(small):
    atlas = ExactAtlas()
    first, second = small.sections[0], shuffled(small.sections[1])
    for section in (first, second):
        index_section(section, small.model, atlas, actor="test")
    (collection,) = atlas.collections()
    manifest = atlas.read_manifest(collection)
    assert len(manifest.panels) == 1
    panel = get_panel(atlas, collection, manifest.panels[0])
    means = first.counts.toarray().mean(axis=0)
    in_order = means[first.panel.find(panel.symbols)]
    assert (np.diff(in_order) <= 0).all()  # by falling mean of the first section
    for section in (first, second):
        found, row, counts = stored(atlas, section.section)
        rows = [row[b] for b in section.barcodes.tolist()]
        columns = found.panels[0].find(section.panel.symbols)
        np.testing.assert_array_equal(counts[rows][:, columns], section.counts.toarray())
        np.testing.assert_array_equal(found.library_total[rows], section.totals)


def test_the_order_of_genes_changes_neither_profiles_nor_the_panel_found(small):
    section, other = small.sections[1], shuffled(small.sections[1], 3)
    np.testing.assert_allclose(
        model_profiles(section, small.model), model_profiles(other, small.model), atol=1e-6
    )
    (collection,) = small.atlas.collections()
    manifest = small.atlas.read_manifest(collection)
    one, columns = stored_panel(small.atlas, collection, manifest, section)
    two, moved = stored_panel(small.atlas, collection, manifest, other)
    assert one == two
    assert section.panel.take(columns) == other.panel.take(moved) == one


def test_a_gene_more_makes_a_panel_of_its_own(small):
    atlas = ExactAtlas()
    index_section(small.sections[0], small.model, atlas, actor="test")
    section = small.sections[1]
    kept = np.arange(len(section.panel) - 1)
    fewer = replace(section, panel=section.panel.take(kept), counts=section.counts[:, kept])
    done = index_section(fewer, small.model, atlas, actor="test")
    assert (done.shared, done.panel_genes, done.model_genes) == (59, 59, 60)
    (collection,) = atlas.collections()
    assert len(atlas.read_manifest(collection).panels) == 2
    profiles = model_profiles(fewer, small.model)
    assert np.isnan(profiles[:, -1]).all()
    assert np.isfinite(profiles[:, :-1]).all()


def test_too_few_shared_genes_are_refused_and_nothing_is_written(small):
    section = small.sections[0]
    kept = np.arange(29)
    poor = replace(section, panel=section.panel.take(kept), counts=section.counts[:, kept])
    atlas = ExactAtlas()
    with pytest.raises(SectionError, match=r"29 of the model's 60 genes") as caught:
        index_section(poor, small.model, atlas)
    assert "\n" not in str(caught.value)
    assert atlas.collections() == []
    with pytest.raises(SectionError, match="no image"):
        index_section(replace(section, slide_path=None), small.model, atlas)
    assert atlas.collections() == []
    enough = replace(section, panel=section.panel.take(range(30)), counts=section.counts[:, :30])
    assert index_section(enough, small.model, atlas).shared == 30


def test_only_listed_columns_of_the_sheet_are_stored(small):
    section = replace(small.sections[0], fields={"stage": "II", "patient": "Jane Doe"})
    atlas = ExactAtlas()
    index_section(section, small.model, atlas, fields=("stage",))
    (collection,) = atlas.collections()
    pages = atlas.scroll(collection, fields=["stage", "patient"])
    payloads = [record.payload for page in pages for record in page]
    assert len(payloads) == len(section)
    assert {p.get("stage") for p in payloads} == {"II"}
    assert not any("patient" in p for p in payloads)
    assert "Jane" not in str(atlas.read_manifest(collection))
    check_fields([section], ("stage",))
    with pytest.raises(InputError, match="no column 'grade'"):
        check_fields([section], ("grade",))
    with pytest.raises(InputError, match="stored anyway"):
        check_fields([section], ("donor",))


def test_the_revision_follows_what_is_stored(small):
    atlas, section = ExactAtlas(), replace(small.sections[0], fields={"stage": "II"})
    assert index_section(section, small.model, atlas).outcome.status == "added"
    again = index_section(section, small.model, atlas).outcome
    assert (again.status, again.written) == ("unchanged", 0)
    listed = index_section(section, small.model, atlas, fields=("stage",)).outcome
    assert listed.status == "replaced"
    moved = replace(section, xy_px=section.xy_px + 1.0)
    assert index_section(moved, small.model, atlas, fields=("stage",)).outcome.status == "replaced"
    (collection,) = atlas.collections()
    assert atlas.read_manifest(collection).spots == len(section)


def test_species_are_not_mixed(small):
    with pytest.raises(GeneError, match="several species"):
        Panel(("ERBB2", "Erbb2"), ("ENSG00000141736", "ENSMUSG00000062312"))
    atlas = ExactAtlas()
    index_section(small.sections[0], small.model, atlas)
    (collection,) = atlas.collections()
    before = atlas.read_manifest(collection)
    mouse = replace(small.sections[1], species="mouse")
    with pytest.raises(BleepdbError, match="species") as caught:
        index_section(mouse, small.model, atlas)
    assert "\n" not in str(caught.value)
    assert atlas.read_manifest(collection) == before
