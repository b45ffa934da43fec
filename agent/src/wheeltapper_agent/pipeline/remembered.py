"""What a pipeline has learnt of its machine with the releases that it ran, as it is kept on disk.

Invariants:
    * A file is replaced as a whole: a power cut at any write leaves the old or the new content.
    * The newest release comes first; at most :data:`KEPT` are kept, so that going back to a release finds what was
      learnt with it.
    * What was learnt is used for another release only if both have the same input, features and transforms; and where
      one knows operating conditions, the same ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from wheeltapper_agent.ground.errors import AgentError, storage_error
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_protocols.decision.baseline import BaselineState, carried_over
from wheeltapper_protocols.decision.condition import ConditionSpec
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.manifest.manifest import Input, Manifest
from wheeltapper_protocols.signal.feature_kinds import FeatureSpec

__all__ = ["KEPT", "Remembered", "find", "read_file", "remove_file", "write_file"]

KEPT: Final = 3


class Remembered(Struct, frozen=True, kw_only=True):
    """What was learnt with one release."""

    sha256: str
    """Of its manifest."""
    input: Input
    features: list[FeatureSpec]
    scoring: ScoringSpec | None
    condition: ConditionSpec | None = None
    baseline: BaselineState
    slow_sum: Annotated[float, Meta(ge=0)] = 0.0
    """The cumulative sum of its decision; see :mod:`wheeltapper_protocols.decision.decision`."""


class _File(Struct, frozen=True, kw_only=True):
    format: Annotated[int, Meta(ge=1, le=1)] = 1
    releases: list[Remembered]


def read_file(path: Path) -> tuple[Remembered, ...]:
    """Return what the file ``path`` holds, the newest release first; nothing if there is none.

    Raises:
        AgentError: ``baseline.unreadable``.
    """
    try:
        return tuple(msgspec.json.decode(path.read_bytes(), type=_File).releases)
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise AgentError("baseline.unreadable", f"{path.name} cannot be read: {error}") from error


def write_file(path: Path, releases: tuple[Remembered, ...]) -> None:
    """Replace the file ``path``.

    Raises:
        OSError: the disk refuses; the file is as before.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(_File(releases=list(releases[:KEPT]))))


def remove_file(path: Path) -> None:
    """Forget everything.

    Raises:
        AgentError: ``storage.*``: the disk refuses; the file is as before.
    """
    try:
        if path.exists():
            write_file(path, ())
    except OSError as error:
        raise storage_error(error, "the baseline cannot be reset") from error


def find(releases: tuple[Remembered, ...], manifest: Manifest, sha256: str) -> tuple[BaselineState, bool]:
    """Return what is known for a release: what was learnt with it, or else with the newest one of the same features.

    Returns:
        The state, and whether it was learnt with another release.
    """
    own = next((each for each in releases if each.sha256 == sha256), None)
    if own is not None:
        return own.baseline, False
    spec, scoring = manifest.baseline, manifest.scoring
    if spec is None or scoring is None:
        return BaselineState(), False
    for each in releases:
        same = each.input == manifest.input and each.features == manifest.features
        if each.condition != manifest.condition or (each.condition is not None and each.scoring != scoring):
            continue
        if same and each.scoring is not None and each.scoring.transform == scoring.transform:
            state = carried_over(spec, scoring, each.baseline, each.scoring)
            return state, state.learned > 0
    return BaselineState(), False
