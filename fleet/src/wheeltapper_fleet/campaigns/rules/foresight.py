"""What can be seen of a campaign at its creation: it is refused where it cannot work, and warned of where it may not.

Pure. Devices change, and a device may get a pipeline later: only what no device of the audience has is refused.

Example::

    foresee(spec, (("press-1",), ("press-2",)), {"press-1": {"main": None}, "press-2": None})
    # ["1 of 2 devices have not said yet which pipelines they have: press-2"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from wheeltapper_fleet.campaigns.rules.default_release import Shown
from wheeltapper_fleet.campaigns.rules.spec import ALL_PIPELINES, CampaignSpec
from wheeltapper_fleet.ground.errors import FleetError

__all__ = ["foresee"]

_NAMED_AT_MOST: Final = 5

Pipelines = Mapping[str, Shown]
"""By name, what each pipeline of a device runs."""


def foresee(spec: CampaignSpec, waves: Sequence[Sequence[str]], shown: Mapping[str, Pipelines | None]) -> list[str]:
    """What to warn of.

    Args:
        spec: a spec that was read.
        waves: the devices of each wave.
        shown: by device, its pipelines as its last status message had them; None where it has sent none.

    Raises:
        FleetError: ``campaign.pipeline_unknown``: no device of the audience has one of the pipelines.
    """
    devices = [device for wave in waves for device in wave]
    silent = [device for device in devices if shown.get(device) is None]
    warnings = []
    if silent:
        warnings.append(f"{_some(silent, devices)} have not said yet which pipelines they have: {_names(silent)}")
    lacking: set[str] = set()
    for pipeline in spec.pipelines:
        without = [device for device in devices if _lacks(shown.get(device), pipeline)]
        what = "any pipeline" if pipeline == ALL_PIPELINES else f"a pipeline {pipeline!r}"
        if len(without) == len(devices):
            known = sorted({name for pipelines in shown.values() for name in pipelines or ()})
            raise FleetError(
                "campaign.pipeline_unknown",
                f"no device of the audience has {what}; they have {', '.join(known[:20]) or 'none at all'}",
                422,
            )
        if without:
            warnings.append(f"{_some(without, devices)} do not have {what}, and will fail: {_names(without)}")
        lacking.update(without)
        warnings += _other_models(spec, pipeline, devices, shown)
    return warnings + _unreachable(spec, waves, lacking) + _times(spec)


def _lacks(pipelines: Pipelines | None, pipeline: str) -> bool:
    """Whether a device is known not to have ``pipeline``."""
    return pipelines is not None and (not pipelines if pipeline == ALL_PIPELINES else pipeline not in pipelines)


def _other_models(
    spec: CampaignSpec, pipeline: str, devices: Sequence[str], shown: Mapping[str, Pipelines | None]
) -> list[str]:
    others = [
        device
        for device in devices
        for name, runs in (shown.get(device) or {}).items()
        if pipeline in (name, ALL_PIPELINES) and runs is not None and runs[0] != spec.model
    ]
    if not others:
        return []
    where = "some pipelines" if pipeline == ALL_PIPELINES else f"pipeline {pipeline!r}"
    return [f"{_some(list(dict.fromkeys(others)), devices)} run another model on {where}: {_names(others)}"]


def _unreachable(spec: CampaignSpec, waves: Sequence[Sequence[str]], lacking: set[str]) -> list[str]:
    """Waves that cannot pass, and rules that cannot be broken in a wave."""
    warnings = []
    for number, wave in enumerate(waves, 1):
        able = sum(device not in lacking for device in wave)
        needed = spec.success.needed(len(wave))
        if able < needed:
            warnings.append(f"wave {number} cannot pass: it needs {needed} successes, and {able} devices are able to")
        for rule in spec.abort:
            count = rule.count if rule.percent is None else None
            if rule.scope == "wave" and len(wave) < max(rule.minimum_executed, count or 1):
                warnings.append(f"wave {number} has {len(wave)} devices, too few to break the abort rule: {rule}")
    return warnings


def _times(spec: CampaignSpec) -> list[str]:
    if spec.execution_deadline_seconds >= spec.soak_seconds:
        return []
    return [
        f"the deadline of an execution ({spec.execution_deadline_seconds:g} s) is shorter than the soak time of a wave"
        f" ({spec.soak_seconds:g} s): are the two exchanged?"
    ]


def _some(some: Sequence[str], devices: Sequence[str]) -> str:
    return f"{len(some)} of {len(devices)} devices"


def _names(devices: Sequence[str]) -> str:
    names = sorted(set(devices))
    return ", ".join(names[:_NAMED_AT_MOST]) + (", …" if len(names) > _NAMED_AT_MOST else "")
