"""Slots and journal after a fault at any call of the file system: the old or the new, never a mixture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.update.journal import Execution, Journal, JournalEntry
from wheeltapper_agent.update.slots import Slots


def _stage(slots: Slots, folder: Path, name: str) -> None:
    blob = folder / f"blob-{name}"
    blob.write_bytes(name.encode())
    slots.stage(name, b"{}", {"model.onnx": blob})


def test_slots_switch_and_go_back(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots")
    for name in ("a-1-00000000", "a-2-00000000", "a-3-00000000"):
        _stage(slots, tmp_path, name)
    slots.activate("main", "a-1-00000000")
    slots.activate("main", "a-2-00000000")
    slots.activate("main", "a-2-00000000")
    assert (slots.active("main"), slots.previous("main")) == ("a-2-00000000", "a-1-00000000")
    slots.collect_garbage()
    assert not slots.path("a-3-00000000").exists()
    slots.restore("main", "a-1-00000000")
    assert slots.active("main") == "a-1-00000000"
    slots.restore("main", None)
    assert slots.active("main") is None
    with pytest.raises(AgentError) as missing:
        slots.activate("main", "a-9-00000000")
    assert missing.value.code == "slot.missing"


@pytest.mark.parametrize("function", ["replace", "rename", "fsync", "symlink", "mkdir", "unlink"])
@pytest.mark.parametrize("at", range(8))
def test_a_fault_at_any_call_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, at: int
) -> None:
    slots = Slots(tmp_path / "slots")
    _stage(slots, tmp_path, "a-1-00000000")
    slots.activate("main", "a-1-00000000")
    calls, real = [0], getattr(os, function)

    def planted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] > at:
            raise OSError(28, "planted: no space left")
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, planted)
        try:
            _stage(slots, tmp_path, "a-2-00000000")
            slots.activate("main", "a-2-00000000")
        except (AgentError, OSError):
            pass
    again = Slots(tmp_path / "slots")
    active = again.active("main")
    assert active in ("a-1-00000000", "a-2-00000000")
    assert (again.path(active) / "model.onnx").read_bytes() == active.encode()
    _stage(again, tmp_path, "a-2-00000000")
    again.activate("main", "a-2-00000000")
    assert again.active("main") == "a-2-00000000"


def test_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    assert journal.read() == JournalEntry()
    entry = JournalEntry(counter=4, execution=Execution(id="e", state="FETCHING"))
    journal.write(entry)
    assert journal.read() == entry
    (tmp_path / "journal.json").write_bytes(b"\xff{")
    assert journal.read() == JournalEntry()
    assert (tmp_path / "journal.json.bad").exists()
