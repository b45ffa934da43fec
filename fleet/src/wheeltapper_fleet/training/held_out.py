"""Judges a bundle on a side of its dataset that it was not trained on: across sites, machines and conditions, and
against the champion, on the same windows, through the agent's own program.

The gates go into the bundle's manifest, which is then signed. What the data does not allow to judge is no gate: the
manifest's lineage says it (``not_judged``), and so does a warning of the run.

Invariants:
    * A bundle that fails a gate here is removed.
    * Nothing that was not judged passes: a rule that asks for its gate finds none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_fleet.ground import files
from wheeltapper_fleet.learning.datasets.reading import Dataset
from wheeltapper_fleet.learning.runs.recipe_text import Data, Gates
from wheeltapper_fleet.training.desk_agent import DeskAgent
from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.judging.judge import HeldOut, Limits, Other, judge_held_out
from wheeltapper_fleet.training.judging.windows import Truth, held_out_windows
from wheeltapper_fleet.training.labelled import SEGMENTS, LabelledWindows
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, Manifest, decode_manifest, encode_manifest

__all__ = ["judge_bundle"]

_SIDES: Final = ("test", "validation")
Say = Callable[[str], None]


def judge_bundle(
    bundle: Path,
    wanted: Gates,
    data: Data,
    dataset: Dataset,
    parameters: Mapping[str, Any],
    *,
    champion: Path | None,
    progress: Say,
    warn: Say,
) -> Manifest:
    """Judge a bundle and write what was found into its manifest.

    Args:
        bundle: its folder; it is removed where a gate fails.
        wanted: what is judged, and how strictly.
        data: what the bundle was trained on.
        dataset: the version.
        parameters: of the recipe: its label and its healthy fraction say what is true, where ``wanted`` does not.
        champion: the folder of the release that it must not be worse than; None: there is none.
        progress: called with a few words at each step.
        warn: called with a sentence for each thing that is not judged.

    Returns:
        The manifest as it is now.

    Raises:
        TrainingError: ``training.gate_failed``; ``training.not_judged``: the data does not allow what is required.
        DatasetError: ``dataset.*``.
    """
    manifest = decode_manifest((bundle / MANIFEST_FILE).read_bytes())
    found, said = _found(bundle, manifest, wanted, data, dataset, parameters, champion, progress, warn)
    if champion is None:
        found.missing.pop("champion", None)
        if "champion" in wanted.required:
            found.missing["champion"] = "the recipe names no champion"
    for name, why in sorted(found.missing.items()):
        warn(f"not judged: {name}: {why}")
    try:
        _check(found, wanted)
    except TrainingError:
        shutil.rmtree(bundle)
        raise
    lineage = manifest.lineage | said
    if found.missing:
        lineage["not_judged"] = "; ".join(f"{name}: {why}" for name, why in sorted(found.missing.items()))[:1000]
    taken = {gate.name for gate in found.gates}
    gates = [*(gate for gate in manifest.gates if gate.name not in taken), *found.gates]
    made = msgspec.structs.replace(manifest, gates=gates, lineage=lineage)
    files.write_atomic(bundle / MANIFEST_FILE, encode_manifest(made))
    return made


def _check(found: HeldOut, wanted: Gates) -> None:
    failed = [gate for gate in found.gates if not gate.passed]
    if failed:
        told = "; ".join(f"{each.name} is {each.value:.4g}, limit {each.limit:.4g} ({each.detail})" for each in failed)
        text = f"on data that it was not trained on the candidate failed its gates: {told}; no bundle was written"
        raise TrainingError("training.gate_failed", text)
    if unmet := [f"{name}: {found.missing[name]}" for name in wanted.required if name in found.missing]:
        text = f"[gates] requires what the data does not allow to judge: {'; '.join(unmet)}"
        raise TrainingError("training.not_judged", text)


def _found(
    bundle: Path,
    manifest: Manifest,
    wanted: Gates,
    data: Data,
    dataset: Dataset,
    parameters: Mapping[str, Any],
    champion: Path | None,
    progress: Say,
    warn: Say,
) -> tuple[HeldOut, dict[str, str]]:
    """What was found, and what the lineage says of how."""
    side = _side(wanted, data, dataset)
    if side is None:
        sides = ", ".join(each for each in dataset.manifest.splitting.sides if each) or "none"
        return _nothing(f"{dataset.manifest.ref} has no side that was not trained on; its sides: {sides}"), {}
    progress("held-out data")
    truth = Truth(
        label=wanted.label or str(parameters.get("label") or "fault"),
        healthy_fraction=float(parameters.get("healthy_fraction") or 0.0),
    )
    windows = held_out_windows(dataset, side, data.only, manifest, truth, warn)
    if windows is None:
        return _nothing(f"no recording on the side {side} of {dataset.manifest.ref} fits the model"), {}
    try:
        agent = DeskAgent()
        progress("scores of held-out data")
        scores = agent.evaluate(bundle, windows.samples)
    except (TrainingError, ProtocolError) as error:
        return _nothing(f"{error.message} [{error.code}]"), {}
    limits = Limits(worse=wanted.worse, worst=wanted.worst)
    found = judge_held_out(manifest, windows, scores, limits, _champion(agent, champion, windows, progress))
    told = f"{dataset.manifest.ref} {side}, {len(windows)} windows of {len(windows.names)} recordings"
    said = {"judged_on": told} | ({"judged": found.figure} if found.figure else {})
    if champion is not None:
        theirs = decode_manifest((champion / MANIFEST_FILE).read_bytes())
        trained = f", trained on {theirs.lineage['dataset']}" if "dataset" in theirs.lineage else ""
        said["champion"] = f"{_called(theirs)}{trained}"
    return found, said


def _side(wanted: Gates, data: Data, dataset: Dataset) -> str | None:
    """The side that judges; None where there is none that was not trained on."""
    trained = data.side or dataset.training_side
    if not trained:
        return None
    sides = [each for each in dataset.manifest.splitting.sides if each and each != trained]
    asked = (wanted.side,) if wanted.side else _SIDES
    return next((each for each in asked if each in sides), None)


def _champion(agent: DeskAgent, champion: Path | None, windows: LabelledWindows, progress: Say) -> Other | str | None:
    """What the champion gives for the same windows, or why there is nothing."""
    if champion is None:
        return None
    theirs = decode_manifest((champion / MANIFEST_FILE).read_bytes())
    called = _called(theirs)
    if theirs.input != windows.input:
        return f"{called} takes other windows (rate, length, channels or units): it cannot be replayed on the same data"
    progress(f"scores of {called}")
    try:
        return Other("against_champion", called, theirs, agent.evaluate(champion, windows.samples))
    except (TrainingError, ProtocolError) as error:
        return f"{called} cannot be replayed here: {error.message} [{error.code}]"


def _called(manifest: Manifest) -> str:
    return f"{manifest.model} {manifest.release}" if manifest.release is not None else manifest.model


def _nothing(why: str) -> HeldOut:
    return HeldOut("", None, [], dict.fromkeys(("champion", *SEGMENTS), why))
