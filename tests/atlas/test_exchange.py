"""Export and import: the same points come back, other tools can read them, tampering is refused."""

from __future__ import annotations

import json
import re
import shutil
from importlib.resources import files as resources
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bleepdb.atlas import (
    ExactAtlas,
    export_collection,
    expression_fields,
    import_collection,
    live_where,
    publish_section,
    put_panel,
    vector_crc,
    verify,
)
from bleepdb.errors import AtlasCorruptError, AtlasError, EmptyAtlasError, SpaceMismatchError
from bleepdb.files import canonical_json, digest, file_digest
from bleepdb.panel import Panel

MARKER = "bleepdb-export.json"


@pytest.fixture
def source(lab):
    """Two sections on two panels, one with wide counts, a sheet column, and a field of its own."""
    atlas = ExactAtlas()
    lab.prepare(atlas)
    other = Panel(tuple(f"OTHER{i}" for i in range(30)))
    put_panel(atlas, lab.COLLECTION, other)
    lab.publish(atlas, "S1", spots=40, donor="D1", stage="I")
    live, batches = lab.section("S2", spots=30, donor="D2", on=other)
    for payload in batches[0].payloads:
        payload["scanner"] = "X"
    payload = batches[1].payloads[0]
    payload.update(expression_fields(np.array([0, 29]), np.array([70_000, 1])))
    payload["library_total"] = 80_000
    batches[1].payloads[1].update(expression_fields(np.array([], int), np.array([], int)))
    publish_section(atlas, lab.COLLECTION, live, batches, actor="test")
    atlas.put_blob(lab.COLLECTION, "model/notes.json", b"{}")
    atlas.put_blob(lab.COLLECTION, "loose", b"more")
    return atlas


@pytest.fixture
def exported(source, tmp_path, lab):
    return export_collection(source, lab.COLLECTION, tmp_path / "out", actor="test")


def content(atlas, lab):
    where = live_where(atlas.read_manifest(lab.COLLECTION))
    return {
        r.id: (
            {k: v for k, v in r.payload.items() if k != "expr"},
            {n: v.tobytes() for n, v in r.vectors.items()},
        )
        for batch in atlas.scroll(lab.COLLECTION, where=where, with_vectors=True)
        for r in batch
    }


def test_there_and_back_with_equal_digests_and_answers(source, exported, atlas, lab):
    seen = []
    made = import_collection(exported, atlas, actor="t", progress=lambda *a: seen.append(a))
    assert made.verified == made.written == 70
    assert seen[-1] == (140, 140)
    assert content(atlas, lab) == content(source, lab)
    ours, theirs = (a.read_manifest(lab.COLLECTION) for a in (source, atlas))
    assert ours.live == theirs.live
    assert all(s.points_digest for s in theirs.live)
    assert (ours.panels, ours.keyword_fields) == (theirs.panels, theirs.keyword_fields)
    assert verify(atlas, lab.COLLECTION).sound
    assert atlas.list_blobs(lab.COLLECTION) == source.list_blobs(lab.COLLECTION)
    assert atlas.get_blob(lab.COLLECTION, "loose") == b"more"
    queries = lab.unit(np.random.default_rng(1), 6)
    a, b = (
        x.query_batch(lab.COLLECTION, queries, using="image", limit=9).ids for x in (source, atlas)
    )
    assert a == b
    again = import_collection(exported, atlas, actor="t")
    assert again.written == 0
    assert {o.status for o in again.outcomes.values()} == {"unchanged"}


def test_an_export_of_an_import_is_the_same_export(source, exported, tmp_path, lab):
    target = ExactAtlas()
    import_collection(exported, target, actor="t")
    export_collection(target, lab.COLLECTION, tmp_path / "again", actor="t")
    one, two = (json.loads((p / MARKER).read_text()) for p in (exported, tmp_path / "again"))
    for key in ("files", "sections", "panels", "documents"):
        assert one[key] == two[key]


def test_the_source_knows_of_its_exports(source, exported, lab):
    (noted,) = source.read_manifest(lab.COLLECTION).copies
    assert noted.kind == "export"
    assert noted.where.endswith(str(exported))


def test_the_example_of_the_format_page_reads_it_without_bleepdb(
    source, lab, tmp_path, monkeypatch
):
    text = resources("bleepdb.schemas").joinpath("export.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    one = ExactAtlas()
    lab.prepare(one)
    for name in ("S1", "S2"):
        lab.publish(one, name, spots=20)
    export_collection(one, lab.COLLECTION, tmp_path / "export", actor="t")
    monkeypatch.chdir(tmp_path)
    assert "bleepdb." not in code
    found: dict = {}
    exec(code, found)  # noqa: S102 - the page's own example
    truth = lab.counts_of("S2", 0, 20)
    table = found["table"]
    assert list(table.columns) == list(lab.panel().symbols)
    rows = [f"S2/spot-{i}" for i in range(20)]
    np.testing.assert_array_equal(table.loc[rows].to_numpy(), truth)
    assert found["vectors"].shape == (40, 8)
    np.testing.assert_allclose(np.linalg.norm(found["vectors"], axis=1), 1, atol=1e-6)


def test_columns_are_those_of_the_page(exported):
    page = resources("bleepdb.schemas").joinpath("export.md").read_text()
    named = set()
    for cell in re.findall(r"^\| (`[^|]*`) \|", page, re.MULTILINE):
        named |= set(cell.strip("`").split())
    for path in (exported / "sections").iterdir():
        kinds = {re.sub(r"\..*", ".NAME", n) for n in pq.read_schema(path).names}
        assert kinds == named
        assert pq.read_metadata(path).row_group(0).column(0).compression == "ZSTD"
        assert pd.read_parquet(path).shape[0] in {30, 40}


# --- written whole ----------------------------------------------------------------------------


def test_what_cannot_be_exported(source, tmp_path, lab, monkeypatch):
    with pytest.raises(EmptyAtlasError):
        export_collection(source, "nowhere", tmp_path / "x", actor="t")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    with pytest.raises(AtlasError, match="is there already"):
        export_collection(source, lab.COLLECTION, tmp_path / "taken", actor="t")
    rows = source._get(lab.COLLECTION).rows
    last = rows.stored[-1]
    rows.stored[-1]["x_px"] += 1
    with pytest.raises(AtlasCorruptError, match="digest differs"):
        export_collection(source, lab.COLLECTION, tmp_path / "x", actor="t")
    last["expr"] = "AAAA"
    with pytest.raises(AtlasCorruptError, match="zstd"):
        export_collection(source, lab.COLLECTION, tmp_path / "x", actor="t")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    with pytest.raises(AtlasError, match="nothing was written"):
        export_collection(source, lab.COLLECTION, tmp_path / "x", actor="t")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


# --- tampering --------------------------------------------------------------------------------


def section_file(path, name="S1"):
    (found,) = (path / "sections").glob(f"{name}-*.parquet")
    return found


def sealed(path, change=lambda _: None):
    """Change the marker and make all its digests fit the files again."""
    document = json.loads((path / MARKER).read_text())
    for name, about in document["files"].items():
        if (path / name).exists():
            about["bytes"] = (path / name).stat().st_size
            about["sha256"] = file_digest(path / name)
    change(document)
    del document["checksum"]
    document["checksum"] = digest("export", canonical_json(document))
    (path / MARKER).write_text(json.dumps(document))


def rewritten(change):
    """Change the table of a section, and seal it as if nothing had happened."""

    def do(path):
        table = pq.read_table(section_file(path))
        pq.write_table(change(table), section_file(path), compression="zstd")
        sealed(path)

    return do


def replaced(table, name, values):
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(name), pa.array(values, table.schema[at].type))


def other_count(table):
    counts = table["counts"].to_pylist()
    counts[0][0] += 1
    return replaced(table, "counts", counts)


def swapped_counts(table):
    """Same sums, same checksums, other genes."""
    genes = table["genes"].to_pylist()
    row = next(i for i, g in enumerate(genes) if len(g) > 2 and g[0] > 0)
    genes[row][0] = 0
    return replaced(table, "genes", genes)


def moved_vector(table):
    vectors = np.stack(table["vector.image"].to_numpy(zero_copy_only=False))
    vectors[0] = -vectors[0]
    other = np.stack(table["vector.expression"].to_numpy(zero_copy_only=False))
    crc = table["vcrc"].to_pylist()
    crc[0] = vector_crc({"image": vectors[0], "expression": other[0]})
    return replaced(replaced(table, "vector.image", list(vectors)), "vcrc", crc)


def changed(name, value):
    return lambda t: replaced(t, name, [value, *t[name].to_pylist()[1:]])


def flip(path):
    data = bytearray(section_file(path).read_bytes())
    data[len(data) // 2] ^= 1
    section_file(path).write_bytes(data)


def repeated(table):
    """Many genes that take no room, since they are all one."""
    number = 30_000_000
    for name in ("genes", "counts"):
        column = table[name].combine_chunks()
        ends = column.offsets.to_numpy().copy()
        ends[-1] = ends[-2] + number
        values = np.concatenate([column.values.to_numpy()[: ends[-2]], np.zeros(number, np.uint32)])
        made = pa.ListArray.from_arrays(pa.array(ends), pa.array(values), type=column.type)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), made)
    return table


def long_field(table):
    pairs = pa.array([[("scanner", "x" * 10_000)]] * len(table), table.schema.field("further").type)
    return table.set_column(table.schema.get_field_index("further"), "further", pairs)


TAMPERED = {
    "a bomb of repeats": (rewritten(repeated), r"says that it unpacks to 2\d\d MB"),
    "a text repeated": (
        rewritten(lambda t: replaced(t, "assay", ["x" * 2**20] * len(t))),
        "holds a text of 1048576 bytes",
    ),
    "a long field": (rewritten(long_field), "holds a text of 10000 bytes"),
    "bytes for a text": (
        rewritten(lambda t: t.set_column(
            t.schema.get_field_index("assay"), "assay", pa.array([b"visium"] * len(t), pa.binary(6))
        )),
        "assay is of another kind",
    ),
    "a flipped byte": (flip, "is not what was written"),
    "a flipped byte, sealed": (lambda p: (flip(p), sealed(p)), "."),
    "cut off": (lambda p: section_file(p).write_bytes(b"PAR1"), "is not what was written"),
    "cut off, sealed": (
        lambda p: (section_file(p).write_bytes(b"PAR1"), sealed(p)),
        "cannot be read",
    ),
    "gone": (lambda p: section_file(p).unlink(), "cannot be read"),
    "another count": (rewritten(other_count), "do not add up"),
    "another gene": (rewritten(swapped_counts), "not those that its digest stands for"),
    "another vector": (rewritten(moved_vector), "not those that its digest stands for"),
    "another place": (rewritten(changed("x_px", 1.25)), "not those that its digest stands for"),
    "another donor": (rewritten(changed("donor", "D9")), "has donor 'D9'"),
    "another id": (
        rewritten(changed("id", "0" * 8 + "-0000-4000-8000-" + "0" * 12)),
        "wrong id",
    ),
    "another panel": (rewritten(changed("panel", "0" * 64)), "panel 0{12} was not stored"),
    "no codec": (rewritten(changed("codec", "zzz")), "codec"),
    "a value missing": (rewritten(lambda t: t.drop_columns("barcode")), "cannot be read"),
    "a row less": (rewritten(lambda t: t.slice(1)), "holds 39 spots, not 40"),
    "a row twice": (
        rewritten(lambda t: pa.concat_tables([t.slice(1), t.slice(1, 1)])),
        "stands twice",
    ),
    "null": (rewritten(lambda t: t.set_column(
        t.schema.get_field_index("total"), "total", pa.array([None] * 40, pa.int64())
    )), "cannot be read"),
    "another panel file": (
        lambda p: (
            next((p / "panels").iterdir()).write_bytes(canonical_json(Panel(("A",)).to_json())),
            sealed(p),
        ),
        "panel's digest is wrong",
    ),
    "a file out of the list": (
        lambda p: sealed(p, lambda d: d["files"].pop("model/notes.json")),
        "has no digest",
    ),
    "a path out of the folder": (
        lambda p: sealed(p, lambda d: d["sections"][0].update(file="../S1.parquet")),
        "breaks the export schema",
    ),
    "marker changed": (
        lambda p: (p / MARKER).write_text((p / MARKER).read_text().replace("human", "mouse")),
        "checksum is wrong",
    ),
    "marker gone": (lambda p: (p / MARKER).unlink(), "this is no export"),
    "newer": (lambda p: sealed(p, lambda d: d.update(version=7)), "format version 7"),
    "garbage": (lambda p: (p / MARKER).write_bytes(b"\xff"), "cannot be read"),
    "two of a name": (
        lambda p: sealed(p, lambda d: d["sections"].append(d["sections"][0])),
        "names a section twice",
    ),
    "a bomb": (
        rewritten(lambda t: pa.concat_tables([t]).append_column(
            "bomb", pa.array(["x" * 3_000_000 + str(i) for i in range(40)])
        )),
        "says that it unpacks to",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERED)
def test_what_was_tampered_with_is_refused_and_nothing_becomes_visible(exported, lab, name):
    spoil, match = TAMPERED[name]
    spoil(exported)
    atlas = ExactAtlas()
    with pytest.raises(AtlasError, match=match) as caught:
        import_collection(exported, atlas, actor="t")
    assert "\n" not in str(caught.value)
    assert atlas.collections() == []


def test_a_foreign_writer_may_order_rows_and_columns_otherwise(source, exported, lab):
    for path in (exported / "sections").iterdir():
        table = pq.read_table(path)
        table = table.take(pa.array(np.random.default_rng(0).permutation(len(table))))
        pq.write_table(table.select(table.column_names[::-1]), path, compression="snappy")
    sealed(exported)
    atlas = ExactAtlas()
    import_collection(exported, atlas, actor="t")
    assert content(atlas, lab) == content(source, lab)


def test_another_model_is_refused(exported, lab):
    (exported / "model" / "weights.safetensors").write_bytes(b"other")
    sealed(
        exported,
        lambda d: (
            d["documents"].update({"model/weights.safetensors": "model/weights.safetensors"}),
            d["files"].update(
                {
                    "model/weights.safetensors": {
                        "bytes": 5,
                        "sha256": file_digest(exported / "model" / "weights.safetensors"),
                    }
                }
            ),
        ),
    )
    with pytest.raises(AtlasCorruptError, match="not the one that made the vectors"):
        import_collection(exported, ExactAtlas(), actor="t")
    target = ExactAtlas()
    lab.prepare(target, model_digest="0" * 64)
    shutil.rmtree(exported / "model")
    sealed(exported, lambda d: (d["documents"].clear(), d["files"].pop("model/notes.json")))
    with pytest.raises(AtlasError):
        import_collection(exported, target, actor="t")


def test_an_import_into_another_space_is_refused(exported, lab):
    target = ExactAtlas()
    lab.prepare(target, model_digest="0" * 64)
    with pytest.raises(SpaceMismatchError, match="model_digest"):
        import_collection(exported, target, actor="t")
    assert target.read_manifest(lab.COLLECTION).live == ()
