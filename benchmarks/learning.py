"""Run the benchmarks of learning, print their table and write it to ``build/bench/learning.json``.

The file is a list of ``{name, value, target, holds}``. The exit status is 1 where a figure misses its target. Each part
is a module ``learning_<name>`` with a function ``rows()``.

    python benchmarks/learning.py [--only NAME ...]     # names as in PARTS, e.g. --only bearings
"""

from __future__ import annotations

import sys

from rig import run_parts

_PARTS = ("bearings", "estimation", "fan", "faults", "life", "simulated", "slow", "speed")


if __name__ == "__main__":
    sys.exit(run_parts("learning", _PARTS, "The figures of learning", sys.argv[1:]))
