"""An evaluation's page and picture: they say what the document says, whatever stands in it."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from bleepdb.contracts import faults
from bleepdb.errors import InputError
from bleepdb.view import evaluation_document as reading
from bleepdb.view import evaluation_page
from bleepdb.view.evaluation_figures import draw_summary, figures_of
from bleepdb.view.evaluation_page import page_of, write_page
from bleepdb.view.evaluation_structure import hierarchical_order

from .made_evaluation import SETS, made_evaluation

HOSTILE = (
    "<script>alert(1)</script>", "</table>", "\"' onload=alert(1)", "$\\frac{", "&lt;b&gt;",
    "a\nb\x00\x1b[31m", "\ud800", "\u202etxt", "基因", "x" * 5000, "%s{0}", "",
)  # fmt: skip


class Seen(HTMLParser):
    """What a browser would find: balanced tags, attributes, the text of cells."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.open, self.tables = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, k, v) for k, v in attrs]
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag not in {"img", "meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def test_the_made_document_is_one():
    assert faults("evaluation", made_evaluation()) == []


@pytest.fixture(scope="module")
def page():
    made = page_of(made_evaluation())
    assert made.count("<img ") == 5
    return made


def test_the_page_asks_nothing_of_any_network_and_runs_nothing(page):
    seen = Seen(page)
    assert not {"script", "link", "iframe", "object", "form", "base", "a"} & set(seen.tags)
    for _, name, value in seen.attributes:
        assert not name.startswith("on")
        assert name != "style"
        if name in {"src", "href"}:
            assert value.startswith("data:image/png;base64,")
    assert "url(" not in page
    policy = next(v for _, k, v in seen.attributes if k == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_tables_have_captions_and_scopes(page):
    seen = Seen(page)
    assert seen.tags.count("table") == seen.tags.count("caption") > 5
    assert seen.tags.count("th") == sum(
        tag == "th" and k == "scope" and v in {"row", "col"} for tag, k, v in seen.attributes
    )
    for table in seen.tables:
        assert {len(row) for row in table} == {len(table[0])}


def test_the_figures_of_the_document_stand_in_the_tables():
    document = made_evaluation()
    document["results"]["mean profile"]["HEG"].update(
        mean=-0.12345, low=-0.2, high=0.0678, sd_over_seeds=0.0042, undefined=17
    )
    tables = Seen(page_of(document, {})).tables
    methods = next(t for t in tables if t[0][:2] == ["method", "features"])
    row = dict(zip(methods[0], next(r for r in methods if r[0] == "mean profile"), strict=True))
    assert row["HEG"] == "\u22120.123\u22120.200 to 0.068 ± 0.004 (17 undefined)"
    assert row["features"] == "no image"
    assert row["post-processing"] == "no"
    assert [r[0] for r in methods[1:]] == ["linear", "mean profile", "ridge, equal"]
    per_section = next(t for t in tables if t[0][:2] == ["section", "donor"])
    assert [r[0] for r in per_section[1:]] == ["S1", "S2", "S3"]
    wanted = document["folds"][1]["sections"][0]["scores"]["linear"]["HVG"]
    assert per_section[2][per_section[0].index("HVG")] == f"{wanted:.3f}"


@pytest.mark.parametrize(
    ("low", "high", "family", "said"),
    [
        (0.1, 0.2, "ridge", "+0.100 to +0.200, 1 of 3 folds: above"),
        (-0.1, 0.2, "ridge", "folds: not told apart; a ridge is enough"),
        (-0.2, -0.1, "bleep", "folds: below"),
        (None, None, "ridge", "not known"),
    ],
)
def test_where_ridge_is_enough_it_says_so(low, high, family, said):
    document = made_evaluation()
    document["methods"][-1]["family"] = family
    document["comparisons"]["ridge, equal"]["HEG"].update(low=low, high=high)
    tables = Seen(page_of(document, {})).tables
    found = next(t for t in tables if t[0][:2] == ["beside", "HEG"])
    assert found[1][0] == "ridge, equal"
    assert found[1][1].startswith("+0.1001.30×, ")
    assert found[1][1].endswith(said)


def test_the_best_and_worst_genes_are_listed():
    genes = [f"G{i:03}" for i in range(200)]
    document = made_evaluation(genes=genes)
    pcc = np.random.default_rng(3).permutation(np.linspace(-0.5, 0.9, 200))
    document["genes"]["pcc"] = [None if i == 7 else float(v) for i, v in enumerate(pcc)]
    page = page_of(document, {})
    tables = [t for t in Seen(page).tables if t[0][0] == "gene"]
    order = [genes[i] for i in np.argsort(-pcc) if i != 7]
    assert [r[0] for r in tables[0][1:]] == order[:25]
    assert [r[0] for r in tables[1][1:]] == order[::-1][:25]
    assert "1 of 199 genes with a score are predictable; 200 genes are shared" in page


def test_genes_without_ids_have_a_dash_for_one():
    document = made_evaluation()
    document["genes"]["gene_id"] = []
    rows = next(t for t in Seen(page_of(document, {})).tables if t[0][0] == "gene")[1:]
    assert {r[1] for r in rows} == {"–"}


def test_folds_that_are_missing_are_named():
    document = made_evaluation()
    document["folds_planned"].append("d<9>")
    page = page_of(document, {})
    assert "3 of 4" in page
    assert "d&lt;9&gt;" in page


def hostile():
    document = made_evaluation(
        sections=HOSTILE, donors=[f"{n}/d" for n in HOSTILE], methods=HOSTILE, genes=HOSTILE,
    )  # fmt: skip
    for key in ("interval_label", "summary"):
        document[key] = HOSTILE[0]
    document["notes"] = list(HOSTILE)
    document["folds"][0]["chosen"] = dict.fromkeys(HOSTILE, HOSTILE[1])
    document["run_card"]["facts"] = {HOSTILE[1]: HOSTILE[0]}
    document["features"]["ours"] = {HOSTILE[0]: "</pre>"}
    for method in document["methods"]:
        method["about"] = method["family"] = HOSTILE[0]
    return document


def test_hostile_names_stay_text(tmp_path):
    document = hostile()
    write_page(document, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    seen = Seen(page)
    allowed = {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "dl", "dt", "dd", "div",
        "table", "caption", "thead", "tbody", "tr", "th", "td", "small", "figure", "img", "ul",
        "li", "details", "summary", "pre",
    }  # fmt: skip
    assert set(seen.tags) <= allowed
    assert all(not k.startswith("on") for _, k, _ in seen.attributes)
    assert not set("\x00\x1b\u202e") & set(page)
    methods = next(t for t in seen.tables if t[0][:2] == ["method", "features"])
    assert [r[0] for r in methods[1:4]] == list(HOSTILE[:3])
    assert methods[5][0] == "&lt;b&gt;"  # as it was written, not as HTML would read it
    draw_summary(document, tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size[0] == 1650


def without_numbers(value, replacement):
    if isinstance(value, dict):
        return {k: without_numbers(v, replacement) for k, v in value.items()}
    if isinstance(value, list):
        return [without_numbers(v, replacement) for v in value]
    return replacement if isinstance(value, float) else value


@pytest.mark.parametrize("replacement", [None, float("nan"), float("inf")])
def test_no_number_at_all_is_survived(replacement):
    document = without_numbers(made_evaluation(), replacement)
    figures = figures_of(document, None if replacement is None else ["genes"])
    assert "genes" not in figures
    tables = Seen(page_of(document, figures)).tables
    assert not re.search(r"\b(nan|inf|None)\b", " ".join(c for t in tables for r in t for c in r))


def test_what_was_not_measured_is_left_out():
    document = made_evaluation(sections=("only",), donors=("d",))
    document.update(structure=None, null={}, ceiling={}, comparisons={}, pseudobulk={}, moran={})
    document["folds"][0]["mixing"] = None
    assert set(figures_of(document)) == {"scores", "sections", "genes"}
    page = page_of(document, {})
    assert "Donors among the neighbours" not in page
    assert "Comparisons" not in page


@pytest.mark.parametrize(("folds", "methods", "genes"), [(1, 1, 1), (20, 25, 60)])
def test_any_size_is_drawn_without_cutting(tmp_path, folds, methods, genes):
    document = made_evaluation(
        sections=[f"section number {i}" for i in range(folds)],
        methods=[f"method {i}, our features, all equal, and more words" for i in range(methods)],
        genes=[f"GENE{i}" for i in range(genes)],
    )  # fmt: skip
    assert Seen(page_of(document, {})).tables
    draw_summary(document, tmp_path / "s.png")
    picture = grey(tmp_path / "s.png")
    for edge in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        assert (edge == 255).all()  # nothing runs out of the picture


def test_lists_that_are_too_short_are_filled_with_nothing():
    document = made_evaluation()
    document["genes"].update(noise_ceiling=[0.5], predictable=[], moran=[0.1] * 9)
    assert set(figures_of(document, ["genes"])) == {"genes"}
    assert "0 of 4 genes with a score are predictable" in page_of(document, {})


def picture_of(document, key):
    return grey(io.BytesIO(figures_of(document, only=[key])[key][1]))


def grey(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L"))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("scores", lambda d: d["results"]["linear"]["HEG"].update(high=0.9)),
        ("scores", lambda d: d["null"]["MG"].update(p99=0.3)),
        ("scores", lambda d: d["methods"][0].update(post=False)),
        ("sections", lambda d: d["folds"][0]["sections"][0]["scores"]["linear"].update(HVG=0.9)),
        ("genes", lambda d: d["genes"]["pcc"].__setitem__(0, -0.9)),
        ("structure", lambda d: d["structure"]["imputed"]["linear"][0].__setitem__(1, None)),
        ("structure", lambda d: d["structure"]["agreement"].update(linear=0.11)),
        ("mixing", lambda d: d["folds"][0]["mixing"].update(effective_donors=1.1)),
    ],
)
def test_each_picture_shows_its_figures(key, change):
    document = made_evaluation()
    before = picture_of(document, key)
    change(document)
    after = picture_of(document, key)
    assert before.shape != after.shape or (before != after).any()


def test_the_same_document_gives_the_same_pictures():
    assert figures_of(made_evaluation(), ["genes"]) == figures_of(made_evaluation(), ["genes"])


def test_genes_stand_by_those_they_go_with():
    kind = np.array([0, 1, 0, 1, 0, 1, 1, 0])
    matrix = np.where(kind[:, None] == kind, 0.8, -0.5)
    np.fill_diagonal(matrix, 1)
    order = hierarchical_order(matrix)
    assert sorted(order) == list(range(8))
    assert (np.diff(kind[order]) != 0).sum() == 1
    matrix[3], matrix[:, 3] = np.nan, np.nan
    assert sorted(hierarchical_order(matrix)) == list(range(8))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "bleepdb-growth"}, "not the document"),
        ({"version": 1}, "version 1"),
        ({"methods": []}, "without methods"),
        ({"folds": []}, "without methods or folds"),
    ],
)
def test_another_document_is_refused_and_nothing_is_written(tmp_path, change, said):
    document = made_evaluation() | change
    for write in (write_page, draw_summary):
        with pytest.raises(InputError, match=said):
            write(document, tmp_path / "out")
    del document["results"]
    with pytest.raises(InputError):
        write_page(document, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "p.html").write_text("old")
    monkeypatch.setattr(evaluation_page, "figures_of", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(made_evaluation(), tmp_path / "p.html")
    assert [p.name for p in tmp_path.iterdir()] == ["p.html"]
    assert (tmp_path / "p.html").read_text() == "old"


def test_the_best_of_each_family_is_drawn_beside_ours():
    document = made_evaluation(methods=("linear", "a", "b", "c", "d"))
    for method, family in zip(document["methods"], ("own", "x", "y", "x", "own"), strict=True):
        method["family"] = family
    for sets in document["results"]["c"].values():
        sets["mean"] = 0.9
    assert reading.rivals(document) == ["linear", "c", "b", "d"]
    assert reading.rivals(document, most=1) == ["linear", "c"]


def test_headlines_are_those_of_the_document():
    document = made_evaluation()
    assert reading.headline_sets(document) == ["HEG", "MG", "HVG", "SVG"]
    document["gene_sets"] = ["mine"]
    assert reading.headline_sets(document) == ["mine"]
    assert reading.sets_of(made_evaluation(), trimmed=True) == [s for s in SETS if "MT/RP" in s]


def test_numbers_are_numbers():
    values = [1, 0.5, True, None, "0.5", float("nan"), float("inf"), [1]]
    found = [reading.number(v) for v in values]
    assert found[:2] == [1.0, 0.5]
    assert np.isnan(found[2:]).all()
