"""Messages that wait for the database: nothing is lost, doubled or turned round; both bounds hold."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.ingest.backlog import Backlog


@given(st.lists(st.one_of(st.none(), st.integers(0, 30)), max_size=60))
def test_what_fits_comes_out_in_order_in_bounded_batches(steps: list[int | None]) -> None:
    """A number puts a message of that size in; None takes a batch out."""
    backlog = Backlog(max_messages=8, max_bytes=60, batch_messages=3, batch_bytes=25, gather_seconds=0.0)
    waiting: list[int] = []
    for step in [*steps, *[None] * 9]:
        if step is not None:
            fits = len(waiting) < 8 and (not waiting or sum(waiting) + step <= 60)
            assert backlog.put("t", bytes(step)) is fits
            waiting += [step] if fits else []
        elif waiting:
            batch = [len(payload) for _, payload in backlog.take(hurry=True)]
            assert batch == waiting[: len(batch)]
            assert 1 <= len(batch) <= 3
            assert sum(batch[:-1]) < 25
            assert len(batch) == 3 or len(batch) == len(waiting) or sum(batch) >= 25
            del waiting[: len(batch)]
        assert backlog.empty() is not bool(waiting)
    assert not waiting


def test_threads_lose_nothing() -> None:
    backlog = Backlog(
        max_messages=100_000, max_bytes=10**9, batch_messages=100, batch_bytes=10**6, gather_seconds=0.001
    )

    def fill(name: str) -> None:
        for number in range(2000):
            assert backlog.put(f"{name}/{number}", b"x")

    threads = [threading.Thread(target=fill, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    found: list[str] = []
    while len(found) < 4000:
        found += [topic for topic, _ in backlog.take()]
    for thread in threads:
        thread.join()
    for name in "ab":
        assert [topic for topic in found if topic.startswith(name)] == [f"{name}/{number}" for number in range(2000)]
