"""What ``wheeltapper-agent run`` becomes: the agent alone, without the command line's libraries, in the same process.

``python -m wheeltapper_agent.daemon CONFIG [--verbose]``. Exit codes are the command
line's: 0 done; 2 wrong configuration or a refusal.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from wheeltapper_agent.lean import keep_small, late_import

late_import("urllib.request")  # 3 MB that paho imports and uses for WebSockets only

from wheeltapper_agent.adapters.identity import load_identity  # noqa: E402  # after the above
from wheeltapper_agent.adapters.notify import Notifier  # noqa: E402
from wheeltapper_agent.config import load_config, load_profile  # noqa: E402
from wheeltapper_agent.errors import AgentError  # noqa: E402
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
    keep_small()
    agent.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
