"""What an effect of the update machine returns. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from wheeltapper_agent.update.machine import Event

__all__ = ["EffectResult"]


@dataclass(frozen=True, slots=True)
class EffectResult:
    """The event that an effect led to, and why.

    Attributes:
        event: the row of the table to take next.
        code: stable code of the reason; empty where everything went well.
        detail: the reason, for a person.
        metrics: figures for the execution report, by name.
    """

    event: Event
    code: str = ""
    detail: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
