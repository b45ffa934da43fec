"""A source that cannot be made when the agent starts: what is shown meanwhile, and what comes when it can."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.agent.servers import until
from tests.agent.source.rig import RunningSource, concatenated, pipeline_config
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.pipeline.config import QualityConfig
from wheeltapper_agent.pipeline.quality import QualityObserver
from wheeltapper_agent.source import deferred as late
from wheeltapper_agent.source.base import Source, SourceContext, SourceKind, pending_windows, source_room
from wheeltapper_agent.source.deferred import DeferredSource
from wheeltapper_agent.source.opening import make_or_defer_source
from wheeltapper_agent.source.replay import ReplaySource
from wheeltapper_protocols.signal.recording import Recording, write_recording

FAST = "kind = 'replay'\nrate_hz = 1000000\n"


def _source(folder: Path, text: str) -> Source:
    return make_or_defer_source("main", pipeline_config(folder, FAST + text).source, folder, SystemClock())


@pytest.fixture(autouse=True)
def _retry_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "_RETRY_FIRST_SECONDS", 0.05)
    monkeypatch.setattr(late, "_RETRY_MAX_SECONDS", 0.1)


def _recording(path: Path) -> None:
    samples = np.arange(5 * 16, dtype=np.int16).reshape(5, 16, 1)
    write_recording(Recording(samples, np.array([1.0]), 100.0, np.arange(5.0), ("x",), ("g",), {}), path)


def test_a_file_that_comes_later(tmp_path: Path) -> None:
    source = _source(tmp_path, "path = 'r.npz'\nhold_until_model = true")
    assert isinstance(source, DeferredSource)
    assert (source.state, source.dropped, pending_windows(source)) == ("source.unreadable", 0, 0)
    with pytest.raises(AgentError) as refused:
        source.spec  # noqa: B018  # it raises
    assert refused.value.code == "source.unreadable"
    QualityObserver(source, QualityConfig())
    source.model_ready()  # is not forgotten
    with RunningSource(source) as taken:
        (tmp_path / "r.npz").write_bytes(b"PK\x03\x04")
        taken.until_state("recording.malformed")
        _recording(tmp_path / "r.npz")
        until(taken.ended.is_set, 10, "the end")
        np.testing.assert_array_equal(concatenated(taken.windows)[:, 0], np.arange(80))
    assert (source.state, source.spec.window_samples) == ("ended", 16)
    assert source_room(source) == ReplaySource.room


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    source = _source(tmp_path, "path = 'r.npz'")
    _recording(tmp_path / "r.npz")
    assert [window.t_s for window in source.windows(3)] == [3, 4]


def test_closing_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "_RETRY_FIRST_SECONDS", 60.0)
    monkeypatch.setattr(late, "_RETRY_MAX_SECONDS", 60.0)
    with RunningSource(_source(tmp_path, "path = 'r.npz'")):
        pass  # leaving waits for the end
    held = _source(tmp_path, "path = 'r.npz'")
    held.close()
    assert list(held.windows(0)) == []


def test_what_the_configuration_got_wrong_ends_the_start(tmp_path: Path) -> None:
    _recording(tmp_path / "r.npz")
    for text in ("path = 'r.npz'\nwindow_samples = 17", "path = 'r.npz'\nrate_hz = 0"):
        with pytest.raises(AgentError) as refused:
            make_or_defer_source(
                "main", pipeline_config(tmp_path, "kind = 'replay'\n" + text).source, tmp_path, SystemClock()
            )
        assert refused.value.code == "config.invalid"


def test_a_plug_in_that_raises_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = threading.Event()

    def make(config: object, context: SourceContext) -> Source:
        if not ready.is_set():
            raise ZeroDivisionError("cheese")
        return ReplaySource(config, context.clock)  # type: ignore[arg-type]  # a ReplayConfig

    config = pipeline_config(tmp_path, FAST + "path = 'r.npz'").source
    monkeypatch.setattr("wheeltapper_agent.source.opening.source_kind", lambda _kind: SourceKind(type(config), make))
    _recording(tmp_path / "r.npz")
    with RunningSource(make_or_defer_source("main", config, tmp_path, SystemClock())) as taken:
        taken.until_state("source.failed")
        ready.set()
        taken.until(5)


def test_a_source_that_was_closed_while_it_was_made(tmp_path: Path) -> None:
    class Made:
        state, dropped, closed = "running", 0, False

        def close(self) -> None:
            self.closed = True

        def model_ready(self) -> None: ...

        def windows(self, first: int) -> Iterator[object]:
            assert self.closed
            return iter(())

    made = Made()

    def make() -> Source:
        source.close()
        return made  # type: ignore[return-value]  # enough of one

    source = DeferredSource(make, AgentError("source.unreadable", "gone"), "main")
    assert list(source.windows(0)) == []
