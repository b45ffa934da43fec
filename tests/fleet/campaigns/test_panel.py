"""The panel of a wave: who is heard, and whom each is compared with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wheeltapper_fleet.campaigns.rules.gates import BUCKET_SECONDS
from wheeltapper_fleet.campaigns.rules.panel import PANEL, Span, draw, spans

names = st.lists(st.integers(0, 60).map(str), unique=True, max_size=60)


@given(devices=names, first=st.integers(0, 60), served=names, most=st.integers(0, 40))
def test_a_panel_keeps_its_rules(devices: list[str], first: int, served: list[str], most: int) -> None:
    wave, later = sorted(devices[:first]), sorted(devices[first:])
    found = draw(wave, later, set(served), most)
    members = [device for device, _ in found]
    controls = [control for _, control in found if control is not None]
    assert len(members) == len(set(members)) == min(len(wave), most)
    assert set(members) <= set(wave)
    assert set(controls) <= set(later)
    assert len(controls) == len(set(controls)) == min(len(members), len(later) // 2)
    for chosen, pool in ((members, wave), (controls, later)):
        if set(chosen) & set(served):  # only after all others
            assert set(pool) - set(served) <= set(chosen)


def test_a_large_wave_is_heard_by_a_bounded_panel_from_all_of_it() -> None:
    wave = [f"dev-{number:06}" for number in range(100_000)]
    later = [f"dev-{number:06}" for number in range(100_000, 102_000)]
    found = draw(wave, later, set())
    assert len(found) == PANEL
    assert found[0] == ("dev-000000", "dev-100000")
    assert found[-1][0] == "dev-099800"
    assert found[-1][1] == "dev-101996"


@given(assigned=st.floats(1e6, 4e9), lasted=st.floats(0, 1e6), observe=st.integers(1, 20))
def test_the_times_before_and_after_hold_nothing_of_the_update_itself(
    assigned: float, lasted: float, observe: int
) -> None:
    before, after = spans(assigned, assigned + lasted, observe * BUCKET_SECONDS)
    assert before.end <= assigned < before.end + BUCKET_SECONDS
    assert after.begin - BUCKET_SECONDS < assigned + lasted <= after.begin
    for span in (before, after):
        assert span.end - span.begin == observe * BUCKET_SECONDS
        assert span.begin % BUCKET_SECONDS == 0


def test_spans_of_an_update() -> None:
    assert spans(1000.0, 1250.0, 600) == (Span(300, 900), Span(1500, 2100))
