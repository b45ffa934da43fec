"""What capture rules record, and which rules a configuration may have."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.agent.records.test_limits import small_disk  # noqa: F401  # a fixture
from tests.agent.spool_kit import Clock
from wheeltapper_agent.captures.config import CaptureRule
from wheeltapper_agent.captures.rules import CaptureRules, Collected
from wheeltapper_agent.config import load_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.pipeline.observation import Observation
from wheeltapper_agent.source.base import SourceSpec, Window
from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.wire.messages import Severity

SPEC = SourceSpec(1000.0, 16, ("x",), ("g",))


def window(index: int) -> Window:
    return Window(np.full((16, 1), float(index), dtype=np.float32), float(index))


def seen(index: int, alert: bool = False, changed: bool = False) -> Observation:
    verdict = Verdict(1.0, Severity.WARNING if alert else Severity.NORMAL, alert, changed, ())
    return Observation("main", index, window(index), None, verdict=verdict)


def times(full: Collected) -> list[float]:
    return [each.t_s for each in full.windows]


class Rules:
    """The rules of one pipeline, and the recordings that they handed over."""

    def __init__(self, max_bytes: int = 10**6, has_room: bool = True, **fields: Any) -> None:
        self.collected: list[Collected] = []
        self.clock = Clock()

        def record(full: Collected) -> bool:
            self.collected.append(full)
            return has_room

        rule = CaptureRule(pipeline="main", **fields)
        self.rules = CaptureRules("main", SPEC, rule, record, self.clock, max_bytes)

    def run(self, first: int, count: int) -> None:
        for index in range(first, first + count):
            assert self.rules.observe(seen(index)) == ()


def test_an_alert_is_recorded_with_the_windows_around_it() -> None:
    made = Rules(on_alert=True, before_windows=3, after_windows=2, pause_seconds=100.0)
    made.run(0, 10)
    made.rules.observe(seen(10, alert=True, changed=True))
    made.rules.observe(seen(11, alert=True, changed=True))  # worse: within the same recording
    assert made.collected == []
    made.rules.observe(seen(12, alert=True))
    (full,) = made.collected
    assert (times(full), full.reason, full.first_window) == ([7, 8, 9, 10, 11, 12], "alert", 7)
    made.rules.observe(seen(13, alert=False, changed=True))  # it is over: nothing to record
    made.rules.observe(seen(14, alert=True, changed=True))
    made.run(15, 10)
    assert len(made.collected) == 1
    assert made.rules.ignored == 2
    made.clock.seconds += 101
    made.rules.observe(seen(30, alert=True, changed=True))
    made.rules.end()
    assert times(made.collected[1]) == [22, 23, 24, 30]


def test_drift_is_recorded_and_may_be_reported_from_any_thread() -> None:
    made = Rules(on_drift=True, before_windows=1, after_windows=0, pause_seconds=0.0)
    made.run(0, 3)
    thread = threading.Thread(target=made.rules.on_drift, args=("change.level",))
    thread.start()
    thread.join()
    made.run(3, 1)
    assert [(full.reason, times(full)) for full in made.collected] == [("drift.change.level", [2, 3])]
    silent = Rules(on_drift=False)
    silent.rules.on_drift("change.level")
    silent.run(0, 20)
    assert silent.collected == []
    silent.rules.trigger("somebody")
    silent.run(20, 20)
    assert silent.collected[0].reason == "somebody"


def test_the_random_share_is_the_same_after_a_restart() -> None:
    one = Rules(random_share=0.1, random_windows=5, seed=7)
    one.run(0, 4000)
    drawn = [t for full in one.collected for t in times(full)]
    assert 300 < len(drawn) < 500
    assert all(len(full.windows) == 5 and full.reason == "random" for full in one.collected)
    other = Rules(random_share=0.1, random_windows=5, seed=7)
    other.run(0, 2000)
    other.run(2000, 2000)
    assert [t for full in other.collected for t in times(full)] == drawn
    third = Rules(random_share=0.1, random_windows=5, seed=8)
    third.run(0, 4000)
    assert [t for full in third.collected for t in times(full)] != drawn


def test_rules_are_cut_to_the_boards_cap_and_never_wait_for_room() -> None:
    made = Rules(max_bytes=16 * 4 * 6, has_room=False, on_alert=True, before_windows=100, after_windows=2)
    made.run(0, 200)
    made.rules.observe(seen(200, alert=True, changed=True))
    made.run(201, 50)
    assert len(made.collected[0].windows) == 6
    assert made.rules.dropped == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[[capture.rules]]\non_alert = true\n", "config.missing_key"),
        ('[[capture.rules]]\npipeline = "a"\n[[capture.rules]]\npipeline = "a"\n', "config.invalid"),
        ('[[capture.rules]]\npipeline = "a"\nrandom_share = 1.5\n', "config.invalid"),
        ('[[capture.rules]]\npipeline = "a"\nbefore_windows = -1\n', "config.invalid"),
        ('[capture]\nrules = "all"\n', "config.invalid"),
        ("[capture]\nspeed = 1\n", "config.unknown_key"),
    ],
)
def test_invalid_rules_are_refused(tmp_path: Path, text: str, code: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'[device]\nstate_dir = "state"\n{text}')
    with pytest.raises(AgentError) as caught:
        load_config(path)
    assert caught.value.code == code


def test_rules_by_name_and_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(
        '[device]\nstate_dir = "state"\n[capture]\nmax_mb_per_day = 5\n[[capture.rules]]\npipeline = "*"\n'
        'random_share = 0.01\n[[capture.rules]]\npipeline = "press"\non_alert = true\n'
    )
    config = load_config(path).capture
    named, rest = config.rule_for("press"), config.rule_for("pump")
    assert named is not None
    assert rest is not None
    assert (named.on_alert, rest.random_share, config.max_mb_per_day) == (True, 0.01, 5.0)
