"""What a device does with a bundle, done on a desk: the self-test with each runtime, and the scores of given windows.

The commands ``wheeltapper-agent bundle check`` and ``bundle evaluate`` call this module. The fleet's tools run these
commands, so that what they find is what a device finds.

Invariants:
    * A bundle is tested in a child process with limits, as on a device (:mod:`wheeltapper_agent.model.sandbox`).
    * Windows are scored by this process, which takes the child's limits on memory and processor time first.

What this module does not do: decide whether a release is good enough.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.profile import Profile, load_profile
from wheeltapper_agent.model.bundle import MAX_BATCH, Bundle, load_bundle
from wheeltapper_agent.model.inference import runtime_name
from wheeltapper_agent.model.runtimes import claiming, preload
from wheeltapper_agent.model.sandbox import confine, measure_in_child
from wheeltapper_protocols.errors import ProtocolError, brief
from wheeltapper_protocols.manifest.manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, RUNTIMES, decode_manifest
from wheeltapper_protocols.signal.npz import write_npz

__all__ = ["check_bundle", "desk_profile", "evaluate_windows"]

_ALL_RUNTIMES: Final = tuple(name for names in RUNTIMES.values() for name in names if name != "tflite-micro")
_MAX_WINDOWS_BYTES: Final = 2 * 1024**3


def desk_profile(name: str = "", runtime: str = "") -> Profile:
    """Return the profile called ``name`` (empty: any board), with ``runtime`` (empty: those of the profile) alone.

    Raises:
        AgentError: ``config.profile``, ``runtime.unknown``.
    """
    profile = load_profile(name) if name else Profile(name="any")
    if not runtime:
        return profile
    if runtime not in _ALL_RUNTIMES:
        raise AgentError(
            "runtime.unknown", f"there is no runtime {runtime[:40]!r}; known are {', '.join(_ALL_RUNTIMES)}"
        )
    return dataclasses.replace(profile, runtimes=(runtime,))


def check_bundle(folder: Path, profile: Profile, timeout_seconds: float) -> list[dict[str, Any]]:
    """Self-test the bundle in ``folder`` with each runtime of ``profile`` that reads its model and that it claims.

    Returns:
        One entry a runtime: ``runtime`` and either ``metrics`` (the figures of
        :func:`wheeltapper_agent.model.self_test.self_test`) or ``code`` and ``message``. ``runtime.missing`` means
        that the runtime is not installed here.

    Raises:
        AgentError: ``bundle.missing``; ``runtime.unclaimed``: no runtime is left.
        ProtocolError: ``manifest.*``.
    """
    try:
        with (folder / MANIFEST_FILE).open("rb") as file:
            manifest = decode_manifest(file.read(MAX_MANIFEST_BYTES + 1))
    except OSError as error:
        raise AgentError("bundle.missing", f"{folder / MANIFEST_FILE} cannot be read: {error.strerror}") from error
    names = [name for name in profile.runtimes if claiming(manifest, name)]
    if not names:
        claimed = [name for name in _ALL_RUNTIMES if claiming(manifest, name)]
        text = f"the profile {profile.name} lists no runtime that the release claims ({', '.join(claimed)})"
        raise AgentError("runtime.unclaimed", text)
    found: list[dict[str, Any]] = []
    for name in names:  # one after the other: what is measured has the board for itself
        one = dataclasses.replace(profile, runtimes=(name,))
        try:
            found.append({"runtime": name, "metrics": measure_in_child(folder, one, "", timeout_seconds)})
        except (AgentError, ProtocolError) as error:
            found.append({"runtime": name, "code": error.code, "message": error.message})
    return found


def evaluate_windows(
    folder: Path, windows: Path, out: Path, profile: Profile, with_inputs: bool, cpu_seconds: float
) -> dict[str, Any]:
    """Score the windows of a file with the bundle in ``folder``, and write what was found to ``out``.

    This process has the limits of ``profile`` from then on; a model that breaks them ends it.

    Args:
        folder: of the bundle.
        windows: an ``.npz`` with the array ``samples`` [window, sample, channel] in the manifest's units.
        out: the ``.npz`` to write: ``score`` [window] float64, ``features`` [window, feature], ``model_output``; for a
            classification ``label`` [window], the index of the likeliest class, -1 where there is none; for a remaining
            life ``value`` [window].
        profile: the board.
        with_inputs: whether ``model_input`` is written too.
        cpu_seconds: processor time that is allowed.

    Returns:
        ``windows`` (their number), ``runtime``, ``provider``.

    Raises:
        AgentError: ``bundle.*``, ``runtime.*``, ``source.windows``.
        ProtocolError: ``manifest.*``, ``runtime.*``.
    """
    samples = _samples(windows)
    preload(profile)
    confine(profile.memory_cap_mb, cpu_seconds, files=True)
    bundle = load_bundle(folder, profile)
    arrays = _evaluated(bundle, samples, with_inputs)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as file:
            write_npz(arrays, file)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return {"windows": len(samples), "runtime": runtime_name(bundle.model), "provider": bundle.model.provider}


def _samples(path: Path) -> NDArray[np.float32]:
    """Return the array ``samples`` of an ``.npz`` file."""
    try:
        if path.stat().st_size > _MAX_WINDOWS_BYTES:
            raise ValueError(f"it has more than {_MAX_WINDOWS_BYTES} bytes")
        with np.load(path, allow_pickle=False) as archive:
            samples = np.asarray(archive["samples"], dtype=np.float32)
        if samples.ndim != 3 or not len(samples):
            raise ValueError("samples must be [window, sample, channel]")
    except Exception as error:  # numpy and zipfile raise many kinds on foreign bytes
        raise AgentError("source.windows", f"{path.name} cannot be used: {brief(error)}") from error
    return samples


def _evaluated(bundle: Bundle, samples: NDArray[np.float32], with_inputs: bool) -> dict[str, NDArray[Any]]:
    """Return the arrays of :func:`evaluate_windows`."""
    parts: dict[str, list[NDArray[Any]]] = {}
    classes = {name: place for place, name in enumerate(getattr(bundle.manifest.classification, "classes", ()))}
    for start in range(0, len(samples), MAX_BATCH):
        found = bundle.evaluate(samples[start : start + MAX_BATCH])
        arrays: dict[str, NDArray[Any]] = {
            "features": found.features,
            "model_output": found.model_output,
            "score": found.scores.score,
        }
        if with_inputs:
            arrays["model_input"] = found.model_input
        if found.scores.labels is not None:
            arrays["label"] = np.array(
                [-1 if name is None else classes[name] for name in found.scores.labels], dtype=np.int64
            )
        if found.scores.values is not None:
            arrays["value"] = found.scores.values
        for name, array in arrays.items():
            parts.setdefault(name, []).append(array)
    return {name: np.concatenate(each) for name, each in parts.items()}
