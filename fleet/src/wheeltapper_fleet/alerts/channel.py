"""Which channel an alert is about, by its reasons and what its release's manifest says of the features. Pure.

The names of features are looked up in the manifest. What is not in there (a band of raw samples, a velocity of ISO
20816) begins with the channel's name, followed by a dot or a blank.

Invariants:
    * An alert has a channel only where more than half of what its reasons say points to it.
    * A manifest that cannot be read names no channel; nothing is guessed from a text alone.

Example::

    known = known_channels({"input": {"channels": ["x", "y"]}, "features": [{"name": "x.rms", "channel": 0}]})
    channel_of([{"feature": "x.rms", "share": 0.7}, {"feature": "y 10-20 Hz", "share": 0.3}], known)  # "x"
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["KnownChannels", "channel_of", "known_channels"]

_CHARACTERS = 64


@dataclass(frozen=True)
class KnownChannels:
    """The channels of a release, the one of each feature by its name, and the one whose bearing is watched."""

    channels: tuple[str, ...] = ()
    by_feature: Mapping[str, str] = field(default_factory=dict)
    of_bearing: str | None = None

    def find(self, feature: str) -> str | None:
        """The channel of a feature or a band; None where it cannot be told."""
        if feature in self.by_feature:
            return self.by_feature[feature]
        fitting = [each for each in self.channels if feature.startswith((f"{each}.", f"{each} "))]
        return max(fitting, key=len, default=None)


def known_channels(manifest: object) -> KnownChannels:
    """What a stored manifest says of channels; nothing where it cannot be read."""
    if not isinstance(manifest, Mapping):
        return KnownChannels()
    inputs = manifest.get("input")
    names = inputs.get("channels") if isinstance(inputs, Mapping) else None
    channels = tuple(str(each)[:_CHARACTERS] for each in names) if isinstance(names, list) else ()
    by_feature = {}
    for each in manifest.get("features") or ():
        if isinstance(each, Mapping) and (channel := _named(channels, each.get("channel"))) is not None:
            by_feature[str(each.get("name"))] = channel
    bearing = manifest.get("bearing")
    return KnownChannels(
        channels, by_feature, _named(channels, bearing.get("channel")) if isinstance(bearing, Mapping) else None
    )


def channel_of(reasons: Sequence[Any], known: KnownChannels) -> str | None:
    """The channel that most of what ``reasons`` say points to; None where none does.

    A reason with share 0 explains the others: a bearing's fault. It decides where nothing else does.
    """
    shares: defaultdict[str | None, float] = defaultdict(float)
    for each in reasons:
        share = each.get("share") if isinstance(each, Mapping) else None
        if isinstance(share, int | float) and math.isfinite(share) and share > 0:
            shares[known.find(str(each.get("feature")))] += share
    if not shares:
        return known.of_bearing if reasons else None
    channel = max(shares, key=lambda each: shares[each])
    return channel if shares[channel] > 0.5 * sum(shares.values()) else None


def _named(channels: Sequence[str], index: object) -> str | None:
    return channels[index] if isinstance(index, int) and 0 <= index < len(channels) else None
