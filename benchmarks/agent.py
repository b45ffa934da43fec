"""Run all benchmarks of the agent, print their table and write it to ``build/bench/agent.json``.

The file is a list of ``{name, value, target, holds}``. The exit status is 1 where a figure misses its target.

    python benchmarks/agent.py [NAME ...]     # the names of benchmarks, e.g. agent_rss spool
"""

from __future__ import annotations

import importlib
import json
import sys

from rig import REPOSITORY, Row, run

_PARTS = (
    "features",
    "agent_window",
    "agent_rss",
    "agent_process",
    "agent_swaps",
    "drift_update",
    "spool",
)
_TARGET = REPOSITORY / "build" / "bench" / "agent.json"


def rows(names: tuple[str, ...] = _PARTS) -> list[Row]:
    """The rows of the benchmarks called ``names``."""
    found: list[Row] = []
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        found += importlib.import_module(name).rows()
    return found


def main(arguments: list[str]) -> int:
    """Run the benchmarks, print the table and write the file."""
    found = run(lambda: rows(tuple(arguments) or _PARTS), "The agent's figures")
    _TARGET.parent.mkdir(parents=True, exist_ok=True)
    _TARGET.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {_TARGET.relative_to(REPOSITORY)}")
    return 0 if all(each["holds"] in (True, None) for each in found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
