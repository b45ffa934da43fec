"""Looks at the healthy samples before anything is learnt from them: a channel that shows nothing teaches nothing.

Invariant: pure functions of samples; nothing is repaired.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError

__all__ = ["check_channels"]

_FLAT_SHARE: Final = 0.1
"""A channel that does not move in so many of the windows is stuck."""
_CLIPPED_SHARE: Final = 0.01
"""A channel of which so many samples stand at its end is clipped."""
_SAME_SIGNAL: Final = 1 - 1e-6
"""Correlation above which two channels are one signal: two sensors, each with its noise, stay far below."""
_LEVELS: Final = 64
"""A signal with fewer levels stands at its greatest one often by itself, such as a temperature in whole degrees."""
_LOOKED_AT: Final = 2**18
"""Samples of a channel in which clipping is looked for."""


def check_channels(what: str, samples: npt.NDArray[Any], channels: tuple[str, ...], process: bool = False) -> None:
    """Refuse channels from which no model can learn.

    Args:
        what: names the recording in the message.
        samples: healthy samples, [window, sample, channel].
        channels: [channel], the names.
        process: process data, not vibration: a tank may be full and a temperature still for many windows, so only a
            channel that never moves is refused.

    Raises:
        TrainingError: ``training.channel``: a channel is constant, stuck, clipped, or the same as another.
    """
    if process:
        samples = samples.reshape(1, -1, samples.shape[2])
    flat = samples.max(axis=1) == samples.min(axis=1)
    for index, name in enumerate(channels):
        count = int(flat[:, index].sum())
        first = samples[0, 0, index]
        if count == len(samples) and bool((samples[:, 0, index] == first).all()):
            raise _refused(what, name, f"is {first:g} in every sample: connect its sensor, or leave the channel out")
        if count >= max(1.0, _FLAT_SHARE * len(samples)):
            raise _refused(what, name, f"does not move in {count} of {len(samples)} windows: its sensor is stuck")
        share = 0.0 if process else _clipped_share(samples[:, :, index])
        if share >= _CLIPPED_SHARE:
            raise _refused(what, name, f"is clipped in {share:.0%} of its samples: lower its gain and record again")
    for index, name in enumerate(channels):
        for other in range(index):
            if np.array_equal(samples[:, :, index], samples[:, :, other]):
                why = f"is the same as {channels[other]!r} in every sample: leave one of them out"
                raise _refused(what, name, why)
            if abs(_correlation(samples[:, :, index], samples[:, :, other])) > _SAME_SIGNAL:
                why = f"is {channels[other]!r} at another scale: leave one of them out"
                raise _refused(what, name, why)


def _correlation(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float:
    """The correlation of two channels that move."""
    pair = [channel.reshape(-1)[:_LOOKED_AT].astype(np.float64) for channel in (first, second)]
    one, two = (values - values.mean() for values in pair)
    size = float(np.linalg.norm(one) * np.linalg.norm(two))
    return float(one @ two) / size if size else 0.0


def _clipped_share(samples: npt.NDArray[Any]) -> float:
    """The share of samples that stand at the greatest or least one, beside another that does too."""
    values = samples.reshape(-1)[:_LOOKED_AT]
    low, high = values.min(), values.max()
    share = 0.0
    for end in (low, high):
        at = values == end
        together = at[1:] & at[:-1]
        share += float(np.count_nonzero(together)) / max(1, len(together))
    return share if share >= _CLIPPED_SHARE and len(np.unique(values)) >= _LEVELS else 0.0


def _refused(what: str, name: str, why: str) -> TrainingError:
    return TrainingError("training.channel", f"{what}: channel {name!r} {why}")
