"""The bounds of a number in a configuration, with its unit. Pure.

A configuration class gives them in the type of its field, and :func:`wheeltapper_agent.ground.toml.build` checks them,
before any code of the class runs.

Example::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class PumpConfig:
        interval_seconds: Annotated[float, Bounds(0.1, 3600, "seconds")] = 1.0
        limit_mb: Annotated[float, Bounds(1, 1024, "MB", zero="no limit")] = 0.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wheeltapper_agent.ground.errors import AgentError

__all__ = ["COUNT_MAX", "DAY_SECONDS", "YEAR_SECONDS", "Bounds", "shown"]

COUNT_MAX: Final = 10**9
"""More of anything than a device can hold."""
DAY_SECONDS: Final = 86_400
YEAR_SECONDS: Final = 366 * DAY_SECONDS


@dataclass(frozen=True, slots=True)
class Bounds:
    """From ``least`` to ``most``, both included. NaN and infinity are outside of all bounds."""

    least: float
    most: float
    unit: str = ""
    """For the message: ``seconds``, ``Hz``, ``windows``; empty for a number without unit."""
    zero: str = ""
    """What 0 means, where it is allowed below ``least``: ``no limit``, ``never``."""

    def check(self, value: float, where: str) -> None:
        """Refuse ``value`` if it is outside.

        Args:
            value: of the key.
            where: name of the key, for the message.

        Raises:
            AgentError: ``config.invalid``.
        """
        if not (self.least <= value <= self.most or (self.zero and value == 0)):
            raise AgentError("config.invalid", f"{where} cannot be {shown(value)}; set {self}")

    def __str__(self) -> str:
        """Such as ``0.1 to 3600 seconds, or 0 for no limit``."""
        unit = f" {self.unit}" if self.unit else ""
        zero = f", or 0 for {self.zero}" if self.zero else ""
        return f"{_plain(self.least)} to {_plain(self.most)}{unit}{zero}"


def shown(value: object) -> str:
    """``value`` for a message: not all of a long text, and of a number with too many digits only that it has."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "so large a number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _plain(number: float) -> str:
    """``number`` as a person writes it, without an exponent where it has few digits."""
    if float(number).is_integer() and abs(number) < 1e15:
        return str(int(number))
    return f"{number:g}"
