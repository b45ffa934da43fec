"""The model card: from records only, missing where nobody measured, and harmless whatever a manifest says."""

from __future__ import annotations

import json
import sys
import time

import pytest

from tests.fleet.api.harness import MODEL, AdminServer
from tests.fleet.promotion.test_comparison import gate, published
from tests.fleet.promotion.test_quality import classifier, runs, say
from wheeltapper_fleet.cli.app import main
from wheeltapper_fleet.lineage.card_text import as_html, as_markdown
from wheeltapper_fleet.promotion.service import request_promotion


def test_a_card_is_written_from_manifest_and_records(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lineage = {"recipe": "fault-classifier-1", "run": "r-0123456789ab", "recording-0": "a"}
    made = classifier(gates=[gate("auroc", 0.9), gate("worst_machine", 0.82)], lineage=lineage)
    published(server, made)
    path = f"/api/v1/releases/{MODEL}/3/card"

    def rows() -> dict[str, dict[str, str]]:
        with server.http() as http:
            found = http.get(path).json()
        return {each["title"]: {row["name"]: row["value"] for row in each["rows"]} for each in found["sections"]}

    card = rows()
    assert card["What it is for"]["classes"] == "normal, worn; normal: normal"
    assert card["Gates"]["auroc"] == "0.9, limit 0.8, passed; 95 %: 0.7 to 0.9"
    assert list(card["Machines, sites and conditions"]) == ["worst_machine"]
    assert card["Data and training"]["dataset"] == "1 recordings, by hash"
    assert (card["Data and training"]["run"], card["Data and training"]["split"]) == ("r-0123456789ab", "not measured")
    assert card["In the field"]["precision of alerts, a year"] == "not measured"
    assert card["In the field"]["accuracy, estimated over a week"].startswith("not measured: 0 windows")
    assert card["Approvals"] == {"": "none"}
    runs(server, "press-1")
    say(server, made, "press-1", [0.2] * 200, 1, time.time() - 60)
    request_promotion(server.engine, MODEL, "champion", 3, who="ann", why="quiet", now=time.time())
    card = rows()
    assert card["In the field"]["accuracy, estimated over a week"].startswith("0.98 (")
    assert any("promoted by ann" in value for value in card["Approvals"].values())
    assert card["Release"]["aliases"] == "champion"
    monkeypatch.setenv("WHEELTAPPER_URL", server.url)
    monkeypatch.setenv("WHEELTAPPER_API_TOKEN", server.token)
    outs = {}
    for form, words in {"md": [], "html": ["--format", "html"], "json": ["--json"], "pdf": ["--format", "pdf"]}.items():
        monkeypatch.setattr(sys, "argv", ["wheeltapper", "release", "card", MODEL, "3", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        outs[form] = (int(ended.value.code or 0), capsys.readouterr().out)
    assert "| auroc | 0.9, limit 0.8, passed; 95 %: 0.7 to 0.9 |" in outs["md"][1]
    assert "<th>auroc</th>" in outs["html"][1]
    assert json.loads(outs["json"][1])["release"] == 3
    assert outs["pdf"] == (2, "")


def test_what_a_manifest_says_is_text_and_nothing_else() -> None:
    row = {"name": "<script>alert(1)</script>|x", "value": "a\n| b |<img src=x>"}
    card = {"model": "m", "release": 1, "sections": [{"title": "T", "rows": [row]}]}
    assert "<script" not in as_html(card)
    assert "<img" not in as_html(card)
    text = as_markdown(card)
    assert "<script" not in text
    assert len(text.splitlines()) == 7
    assert "\\| b \\|" in text
