"""Runs ``wheeltapper`` with a clock that goes faster from a moment on: ``fast_clock.py FACTOR BEGIN [ARGUMENT …]``.

Processes with the same ``FACTOR`` and ``BEGIN`` (Unix seconds) agree about the time. What waits still waits as long;
only the pauses of a simulation, and that between two looks of telemetry gates, are shorter by the factor.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any


def main() -> None:
    factor, begin, real = float(sys.argv[1]), float(sys.argv[2]), time.time
    sys.argv = ["wheeltapper", *sys.argv[3:]]
    time.time = lambda: begin + (real() - begin) * factor
    if sys.argv[1] == "simulate":
        call_later = asyncio.BaseEventLoop.call_later

        def sooner(loop: Any, delay: float, *arguments: Any, **options: Any) -> Any:
            return call_later(loop, delay / factor, *arguments, **options)

        asyncio.BaseEventLoop.call_later = sooner  # type: ignore[assignment,method-assign]  # the test's clock
    from wheeltapper_fleet.campaigns import observations

    observations.EVERY_SECONDS /= factor  # type: ignore[misc]  # before the service reads it
    from wheeltapper_fleet.cli.app import main as run_command

    run_command()


if __name__ == "__main__":
    main()
