"""The process of a running agent: ``wheeltapper-agent run`` replaces itself by this module, without the command line's
libraries.

Usage: ``python -P -m wheeltapper_agent.daemon CONFIG [--verbose]``. Exit codes: 0 stopped by a signal; 2 wrong
configuration, or a refusal, e.g. because another agent has the state folder.

The order of the imports below matters: it decides which modules take memory.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Final

from wheeltapper_agent.ground.lazy_import import hidden_module, lazy_import

_LAZY_MODULES: Final = (
    "bz2",  # imported by shutil and zipfile, for other kinds of archives
    "csv",  # for a source that is a CSV file
    "ipaddress",  # imported by urllib.parse, for IPv6 addresses in URLs
    "locale",  # imported by subprocess, for text
    "lzma",  # imported by shutil and zipfile, for other kinds of archives
    "msgspec.inspect",  # imported by msgspec, for JSON schemas
    "shutil",
    "stringprep",  # for host names that are not ASCII
    "subprocess",  # for the child process that tests a release
    "tempfile",  # for captures
    "urllib.request",  # imported by paho, for WebSockets
    "zipfile",  # for recordings and golden vectors
    "zoneinfo",  # for maintenance windows; it imports sysconfig
    "zstandard",  # for large batches
)
"""Modules that the imports below load and a running agent seldom or never uses: together 4 MB. They are
loaded when used.

What is needed after a fault is not in the list, though it would save memory: ``traceback`` to log it, ``random`` to
connect again. An agent whose disk cannot be read, or that can open no more files, must still report it and go on.
"""

with hidden_module("typing_extensions"):  # msgspec prefers it where typing has the same
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
    """Run the agent until SIGTERM or Ctrl-C.

    Args:
        arguments: path of the configuration, and perhaps ``--verbose``.

    Returns:
        The exit code.
    """
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
        loaded.device.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
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
