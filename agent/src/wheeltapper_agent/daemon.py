"""What ``wheeltapper-agent run`` becomes: the agent alone, without the command line's libraries, in the same process.

``python -m wheeltapper_agent.daemon CONFIG [--verbose]``. Exit codes are the command
line's: 0 done; 2 wrong configuration or a refusal.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Final

from wheeltapper_agent.ground.lazy_import import hidden_module, lazy_import

_LAZY_MODULES: Final = (
    "bz2",  # shutil and zipfile, for archives of other kinds
    "csv",  # a source that is a file
    "ipaddress",  # urllib.parse, for addresses of IPv6 in URLs
    "locale",  # subprocess, for text
    "lzma",  # as bz2
    "msgspec.inspect",  # msgspec, for JSON schemas
    "shutil",
    "stringprep",  # names of hosts that are not ASCII
    "subprocess",  # the child that tests a release
    "tempfile",  # captures
    "urllib.request",  # paho, for WebSockets
    "zipfile",  # recordings, golden vectors
    "zoneinfo",  # maintenance windows; with it comes sysconfig
    "zstandard",  # large batches
)
"""What the modules below import and an agent at work does not use, or seldom: 4 MB, with the one below.

Not here, though they would save memory: what a fault needs (``traceback`` to log it, ``random`` to connect again). An
agent whose disk cannot be read, or that cannot open one more file, must still be able to say so and go on.
"""

with hidden_module("typing_extensions"):  # msgspec prefers it to the equal parts of typing
    for _name in _LAZY_MODULES:
        lazy_import(_name)
    import msgspec  # noqa: F401

from pathlib import Path  # noqa: E402  # after the above

from wheeltapper_agent.config import load_config  # noqa: E402
from wheeltapper_agent.ground.errors import AgentError  # noqa: E402
from wheeltapper_agent.ground.memory import start_releasing_memory  # noqa: E402
from wheeltapper_agent.ground.profile import load_profile  # noqa: E402
from wheeltapper_agent.host.notify import Notifier  # noqa: E402
from wheeltapper_agent.link.identity import load_identity  # noqa: E402
from wheeltapper_agent.service import Agent  # noqa: E402
from wheeltapper_protocols.errors import ProtocolError  # noqa: E402

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run the agent until SIGTERM or Ctrl-C; returns the exit code."""
    config = Path(arguments[0])
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if "--verbose" in arguments[1:] else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in ("urllib3", "tuf", "securesystemslib"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        loaded = load_config(config)
        loaded.device.state_dir.mkdir(parents=True, exist_ok=True)
        identity = load_identity(loaded.device.state_dir)
        agent = Agent(loaded, load_profile(loaded.device.profile), identity, Notifier.from_environment(os.environ))
    except (AgentError, ProtocolError) as error:
        print(f"error: {error.message} [{error.code}]", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: agent.stop())
    start_releasing_memory()
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
