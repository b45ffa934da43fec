"""Run the benchmarks of learning, print their table and write it to ``build/bench/learning.json``.

The file is a list of ``{name, value, target, holds}``. The exit status is 1 where a figure misses its target. Each part
is a module ``learning_<name>`` with a function ``rows()``.

    python benchmarks/learning.py [--only NAME ...]     # names as in PARTS, e.g. --only bearings
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from rig import REPOSITORY, Row, run

_PARTS = ("bearings", "fan", "faults", "life", "simulated", "slow", "speed")
_TARGET = REPOSITORY / "build" / "bench" / "learning.json"


def rows(names: Sequence[str] = _PARTS) -> list[Row]:
    """The rows of the benchmarks called ``names``."""
    found: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found += importlib.import_module(f"learning_{name}").rows()
    return found


def main(arguments: Sequence[str]) -> int:
    """Run the benchmarks, print the table and write the file."""
    parser = argparse.ArgumentParser(description="The figures of learning")
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, metavar="NAME", help=", ".join(_PARTS))
    wanted = parser.parse_args(arguments).only
    found = run(lambda: rows(wanted), "The figures of learning")
    _TARGET.parent.mkdir(parents=True, exist_ok=True)
    _TARGET.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {_TARGET.relative_to(REPOSITORY)}")
    return 0 if all(each["holds"] in (True, None) for each in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
