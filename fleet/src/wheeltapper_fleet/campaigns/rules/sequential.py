"""Sequential tests that stay valid however often they are looked at: how surely updated devices got worse. Pure.

A test takes one value of one device (or of one pair of an updated device and one that is not yet updated) at a time
and bets against the hypothesis that all is well. If all is well, its capital E is a nonnegative supermartingale that
begins at 1, so that by Ville's inequality P(E ever reaches 1 / alpha) <= alpha, at every number of devices and however
often one looks. 1 / (largest E so far) is an always-valid p-value.

The capital is the mean over a grid of stakes s in (0, 1) of the products of (1 + s z), where z in [-1, 1] is what one
device says and E[z | the past] <= 0 if all is well: a mixture, so that nobody needs to know which shift to expect.

Invariants:
    * A value counts once, and what was concluded is never taken back: :attr:`Evidence.largest` only rises.
    * No value is no evidence: a test without devices neither stops nor vouches for anything.
    * :class:`RateTest` assumes nothing but independent devices. :class:`ShiftTest` assumes that differences scatter
      symmetrically about the true shift with one peak, as the difference of two devices of one kind does; their
      variance may be infinite or zero, and outliers cannot decide alone (each is winsorised).
    * Windows of one device are not independent, so they are no units: the caller brings one value a device.

What this module does not do: say what a value is, and what is compared with what
(:mod:`wheeltapper_fleet.campaigns.rules.gates`).

Sources: Ville (1939); Robbins, *Statistical methods related to the law of the iterated logarithm*, Ann. Math. Statist.
41 (1970), for the mixture; Johari, Koomen, Pekelis, Walsh, *Always valid inference*, Operations Research 70 (2022), for
the p-value; Howard, Ramdas, McAuliffe, Sekhon, *Time-uniform, nonparametric, nonasymptotic confidence sequences*, Ann.
Statist. 49 (2021); Waudby-Smith, Ramdas, *Estimating means of bounded random variables by betting*, J. R. Stat. Soc. B
86 (2024), for the bets; Ramdas, Ruf, Larsson, Koolen, *Admissible anytime-valid sequential inference must rely on
nonnegative martingales* (2020), section on symmetry, for :class:`ShiftTest`.

Example::

    test = RateTest(margin=0.02)
    for crashed in (0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        test = test.add(crashed)
    test.evidence.p_value  # 0.02...: far more than 2 % crash
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

__all__ = ["Evidence", "RateTest", "ShiftTest"]

_STAKES: Final = tuple((index + 0.5) / 16 for index in range(16))
_CLIP: Final = 1.5
"""A difference counts at most as much as one of this many times the typical (geometric mean) size so far."""


@dataclass(frozen=True)
class Evidence:
    """What the devices so far say against the hypothesis that all is well.

    Args:
        units: how many values there were.
        logs: by stake, the logarithm of what it turned 1 into.
        largest: the largest logarithm of the capital so far.
    """

    units: int = 0
    logs: tuple[float, ...] = (0.0,) * len(_STAKES)
    largest: float = 0.0

    @property
    def log_capital(self) -> float:
        """The logarithm of the capital now."""
        top = max(self.logs)
        return top + math.log(math.fsum(math.exp(each - top) for each in self.logs) / len(self.logs))

    @property
    def p_value(self) -> float:
        """The always-valid p-value: the smallest alpha at which it would have stopped by now."""
        return math.exp(-self.largest)

    def add(self, outcome: float) -> Evidence:
        """The evidence after one device said ``outcome`` in [-1, 1], which is at most 0 on average if all is well."""
        if not -1.0 <= outcome <= 1.0:
            raise ValueError(f"an outcome lies from -1 to 1, not {outcome}")
        logs = tuple(log + math.log1p(stake * outcome) for log, stake in zip(self.logs, _STAKES, strict=True))
        after = Evidence(self.units + 1, logs, self.largest)
        return replace(after, largest=max(self.largest, after.log_capital))

    def stops(self, alpha: float) -> bool:
        """Whether it has shown, at the false-stop rate ``alpha``, that not all is well."""
        return self.largest >= -math.log(alpha)


@dataclass(frozen=True)
class RateTest:
    """Tests that values in [-1, 1] are at most ``margin`` on average.

    The value of a device is 1 if it got worse and 0 if not; that of a pair is the difference of the two.
    """

    margin: float
    evidence: Evidence = Evidence()

    def add(self, value: float) -> RateTest:
        """The test after one more device or pair.

        Raises:
            ValueError: ``value`` is not from -1 to 1, or not a number.
        """
        if not -1.0 <= value <= 1.0:
            raise ValueError(f"a value lies from -1 to 1, not {value}")
        outcome = (value - self.margin) / (1.0 + self.margin)
        return replace(self, evidence=self.evidence.add(max(-1.0, outcome)))


@dataclass(frozen=True)
class ShiftTest:
    """Tests that values of any scale lie about at most ``margin``: that a value beyond the margin is at no distance
    more often above than below.

    Args:
        margin: the shift that is still fine, in the unit of the values.
        evidence: so far.
        log_sizes: sum of the logarithms of the distances from the margin.
        sizes: how many distances were not zero.
    """

    margin: float
    evidence: Evidence = Evidence()
    log_sizes: float = 0.0
    sizes: int = 0

    def add(self, value: float) -> ShiftTest:
        """The test after one more device or pair.

        The scale of a bet comes from the distances up to this one, without their signs, so that it does not favour
        either side.

        Raises:
            ValueError: ``value`` is not a finite number.
        """
        distance = value - self.margin
        if not math.isfinite(distance):
            raise ValueError(f"a value is a finite number, not {value}")
        if distance == 0.0:
            return replace(self, evidence=self.evidence.add(0.0))
        log_sizes, sizes = self.log_sizes + math.log(abs(distance)), self.sizes + 1
        ratio = math.exp(min(math.log(abs(distance)) - log_sizes / sizes - math.log(_CLIP), 0.0))
        outcome = math.copysign(ratio, distance)
        return replace(self, evidence=self.evidence.add(outcome), log_sizes=log_sizes, sizes=sizes)
