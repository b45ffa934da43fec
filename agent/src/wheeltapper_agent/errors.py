"""The one error root of the agent. Every error carries a stable dotted code that programs may compare.

Codes by family: ``config.*``, ``enrol.*``, ``trust.*`` (TUF metadata), ``assignment.*``, ``fetch.*``, ``slot.*``, ``update.*``,
``self_test.*``, ``probation.*``, ``runtime.*``, ``source.*``, ``capture.*``, ``journal.*``.
"""

from __future__ import annotations

__all__ = ["AgentError"]


class AgentError(Exception):
    """Something that the agent cannot do.

    Args:
        code: stable dotted code, e.g. ``config.unknown_key``; never changes meaning between versions.
        message: what is wrong and what to do about it, for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message
