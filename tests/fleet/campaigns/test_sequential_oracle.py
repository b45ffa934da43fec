"""The rate test compared with an implementation of the same paper by others (ville), in ``.venv-oracles``."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from wheeltapper_fleet.campaigns.rules.sequential import RateTest

ROOT = Path(__file__).resolve().parents[3]
STAKES = [(index + 0.5) / 16 for index in range(16)]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.5])
def test_the_capital_is_that_of_another_implementation(margin: float) -> None:
    python = ROOT / ".venv-oracles" / "bin" / "python"
    if not python.exists():
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("no .venv-oracles: make oracles")
    random = np.random.default_rng(3)
    values = np.concatenate([random.integers(-1, 2, 40), random.uniform(-1, 1, 40)]).tolist()
    done = subprocess.run(
        [python, Path(__file__).with_name("sequential_oracle.py")],
        input=json.dumps({"values": values, "margin": margin, "stakes": STAKES}).encode(),
        capture_output=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    theirs = np.mean(json.loads(done.stdout), axis=0)
    test = RateTest(margin)
    ours = []
    for value in values:
        test = test.add(value)
        ours.append(math.exp(test.evidence.log_capital))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    assert test.evidence.p_value == pytest.approx(min(1.0, 1.0 / max(theirs)))
