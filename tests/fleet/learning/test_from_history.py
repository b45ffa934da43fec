"""Raw history becomes tables of a dataset, from segments and from what is still in the database."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.fleet.history.test_history import DAY, HOUR, MIDNIGHT, move_all, three_days
from tests.fleet.learning.rig import made
from wheeltapper_fleet.history.place import HistoryPlace
from wheeltapper_fleet.history.segments import Segments
from wheeltapper_fleet.learning.datasets.from_history import coming_history
from wheeltapper_fleet.learning.datasets.reading import open_dataset
from wheeltapper_fleet.learning.errors import DatasetError


def test_each_device_is_a_table_of_its_records(engine: Engine, tmp_path: Path) -> None:
    three_days(engine)
    place = HistoryPlace(str(tmp_path / "history"))
    move_all(Segments(engine, place, HOUR), MIDNIGHT + 2 * DAY + 2 * HOUR)
    store, version = made(tmp_path, coming_history(engine, place, ("press-1", "press-2")))
    assert version.manifest.machines == 2
    one, other = open_dataset("rig", store).tables()
    assert (one.meta["machine"], one.rows, other.rows) == ("press-1", 46, 45)
    assert one.columns["seq"].tolist() == list(range(1, 47))
    np.testing.assert_allclose(one.columns["score"][:45], np.arange(1, 46) / 8)
    assert one.columns["kind"].tolist()[-1] == "alert"
    assert np.isnan(one.columns["latency_ms"][-1])
    assert one.units["t_s"] == "s"
    with pytest.raises(DatasetError) as refused:
        made(tmp_path, coming_history(engine, place, ("press-9",)), name="none")
    assert refused.value.code == "dataset.history"
