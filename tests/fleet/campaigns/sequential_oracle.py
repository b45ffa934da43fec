"""Run by ``.venv-oracles``: the capital of ville's betting e-process for given values, with each of some fixed stakes.

Standard input is JSON: ``values`` in [-1, 1], ``margin``, ``stakes``. Standard output: by stake, the capital after each
value. With a tiny alpha ville's own stakes are beyond its bound ``c``, which is then the stake at every step.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import ville  # type: ignore[import-not-found]  # in .venv-oracles only

asked = json.load(sys.stdin)
found = []
for stake in asked["stakes"]:
    test = ville.BettingTest(asked["margin"], bounds=(-1.0, 1.0), alternative="greater", alpha=1e-300, c=stake)
    found.append([float(np.exp(test._process(np.asarray([value]))[-1])) for value in asked["values"]])
print(json.dumps(found))  # its answer
