"""Run cards hold what is needed and no secret."""

from __future__ import annotations

from bleepdb.contracts import check, faults
from bleepdb.run_card import make_run_card, redact, redact_command


def test_a_run_card_holds_its_schema_and_its_facts():
    card = make_run_card(seeds={"fit": 3}, command=["bleepdb", "query"], atlas="a", generation=4)
    check("run_card", card)
    assert card["facts"] == {"atlas": "a", "generation": 4}
    assert card["seeds"] == {"fit": 3}
    assert "numpy" in card["versions"]
    assert faults("run_card", card | {"extra": 1})


def test_secrets_are_hidden_in_commands():
    line = [
        "bleepdb",
        "--api-key",
        "s3cret",
        "--api-key=s3cret",
        "--atlas",
        "https://me:s3cret@h:6333",
    ]
    safe = redact_command([*line, "http://h?api_key=s3cret&x=1"])
    assert "s3cret" not in " ".join(safe)
    assert safe[:2] == ["bleepdb", "--api-key"]
    assert safe[-2] == "https://***@h:6333"
    assert safe[-1] == "http://h?api_key=***&x=1"


def test_plain_text_stays():
    assert redact("slides/a@b.svs --k 50") == "slides/a@b.svs --k 50"
