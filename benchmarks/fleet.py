"""Run the benchmarks of the fleet, print their table and write it to ``build/bench/fleet.json``.

The file is a list of ``{name, value, target, holds}``. The exit status is 1 where a figure misses its target.

    python benchmarks/fleet.py [--only NAME ...]     # names as in PARTS, e.g. --only campaign
"""

from __future__ import annotations

import sys

from rig import run_parts

_PARTS = ("ingest", "campaign", "mosquitto", "signing", "large", "live")


if __name__ == "__main__":
    sys.exit(run_parts("fleet", _PARTS, "The fleet's figures", sys.argv[1:]))
