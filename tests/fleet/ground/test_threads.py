"""What a service has at its start costs no full collection of garbage; what comes later is still collected."""

from __future__ import annotations

import gc
import weakref

from wheeltapper_fleet.ground.threads import keep_what_is_there


class Ring:
    """An object that refers to itself: only the collector ends it."""

    def __init__(self) -> None:
        self.me = self


def test_what_is_there_is_left_out_and_what_comes_later_is_collected() -> None:
    gc.enable()
    before = weakref.ref(Ring())
    try:
        keep_what_is_there()
        assert before() is None, "garbage is not kept"
        assert gc.get_freeze_count() > 1_000
        assert not any(isinstance(each, Ring) for each in gc.get_objects())
        later = weakref.ref(Ring())
        assert later() is not None
        gc.collect()
        assert later() is None
    finally:
        gc.unfreeze()
