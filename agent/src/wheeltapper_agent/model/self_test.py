"""The self-test: whether a bundle gives on this board what it gave where it was made, fast enough and in little memory.

The golden vectors of a bundle are windows with the features, outputs and scores that the maker's computer found. The
test computes them anew, then measures latency and memory and compares them with the manifest's budget.

What this module does not do: protect the agent from a model that hangs or crashes
(:mod:`wheeltapper_agent.model.sandbox`).
"""

from __future__ import annotations

import io
import resource
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.model.bundle import MAX_BATCH, Bundle, Evaluation
from wheeltapper_agent.model.inference import runtime_name
from wheeltapper_protocols.errors import ProtocolError, brief

__all__ = ["compare_golden", "process_memory_mb", "self_test"]

_LATENCY_RUNS: Final = 40
"""Windows whose latency is measured, one call each."""
_WARM_UP_RUNS: Final = 5


def _read_golden(bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Return the arrays ``samples``, ``model_input``, ``model_output`` and ``score`` of the golden vectors, the
    last two as the runtime of this board is expected to give them.

    Raises:
        AgentError: ``self_test.golden``.
    """
    arrays = _arrays(bundle.golden, ("samples", "model_input", "model_output", "score"))
    if bundle.golden_here:
        arrays |= _arrays(bundle.golden_here, ("model_output", "score"))
    if arrays["samples"].ndim != 3 or not len(arrays["samples"]):
        raise AgentError("self_test.golden", "the golden vectors hold no windows")
    return arrays


def _arrays(content: bytes, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Return the arrays called ``names`` of an ``.npz`` file."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in names}
    except Exception as error:  # numpy and zipfile raise many kinds on foreign bytes
        raise AgentError("self_test.golden", f"the golden vectors cannot be read: {brief(error)}") from error


def process_memory_mb(figure: str) -> float:
    """Return a memory figure of this process in MB, by its name in ``/proc/self/status``.

    ``VmHWM`` is the peak of the resident memory. The peak of ``getrusage`` is only the fallback: in a child process it
    begins with the peak of the parent (proc(5), getrusage(2)).
    """
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return float(text.partition(f"{figure}:")[2].split()[0]) / 1024.0
    except (OSError, ValueError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def compare_golden(bundle: Bundle) -> dict[str, float]:
    """Run the golden vectors from raw samples to scores on this board, in one call of the model.

    Returns:
        ``features_error``, ``output_error`` and ``score_error``: the greatest absolute differences.

    Raises:
        AgentError: ``self_test.golden``, ``self_test.features``, ``self_test.output``, ``self_test.score``,
            ``runtime.run``.
    """
    return _golden_run(bundle)[1]


def _golden_run(bundle: Bundle) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Return the golden windows, and how far off their results are on this board."""
    golden = _read_golden(bundle)
    samples = np.asarray(golden["samples"], dtype=np.float32)
    try:
        evaluation = bundle.evaluate(samples)
    except (ProtocolError, ValueError, IndexError) as error:
        raise AgentError(
            "self_test.golden", f"the golden windows cannot be scored: {getattr(error, 'message', error)}"
        ) from error
    return samples, _compare(bundle, golden, evaluation)


def self_test(
    bundle: Bundle, rss_before_mb: float | None = None, latency_factor: float = 1.0, threads: int = 1
) -> dict[str, float]:
    """Run the golden vectors as :func:`compare_golden` does, then measure latency and memory.

    The budget of the latency is judged by the processor time of a window, which other processes do not lengthen, and by
    the time that passes.

    Args:
        bundle: loaded, with its golden vectors.
        rss_before_mb: peak memory before the bundle was loaded; None: count only the growth during this test.
        latency_factor: how many times the budgeted latency may pass, for a process that runs at low priority.
        threads: of the model; they share its processor time.

    Returns:
        The figures of :func:`compare_golden`, ``latency_p95_ms``, ``processor_p95_ms`` and ``rss_growth_mb``.

    Raises:
        AgentError: ``self_test.golden``, ``self_test.features``, ``self_test.output``, ``self_test.score``,
            ``self_test.latency``, ``self_test.memory``, ``runtime.run``.
    """
    before_mb = process_memory_mb("VmHWM") if rss_before_mb is None else rss_before_mb
    samples, metrics = _golden_run(bundle)
    bundle.evaluate(np.resize(samples, (MAX_BATCH, *samples.shape[1:])))  # memory for the largest batch
    times_ms, processor_ms = [], []
    for run in range(_WARM_UP_RUNS + _LATENCY_RUNS):
        one = samples[run % len(samples)][None]
        begin, begin_processor = time.perf_counter(), time.process_time()
        bundle.evaluate(one)
        if run >= _WARM_UP_RUNS:
            processor_ms.append((time.process_time() - begin_processor) * 1e3 / threads)
            times_ms.append((time.perf_counter() - begin) * 1e3)
    metrics["latency_p95_ms"] = float(np.percentile(times_ms, 95))
    metrics["processor_p95_ms"] = float(np.percentile(processor_ms, 95))
    metrics["rss_growth_mb"] = max(0.0, process_memory_mb("VmHWM") - before_mb)
    budget = bundle.manifest.budget
    if metrics["latency_p95_ms"] > budget.latency_p95_ms * latency_factor:
        text = f"the p95 latency of {metrics['latency_p95_ms']:.2f} ms exceeds the budget of {budget.latency_p95_ms} ms"
        raise AgentError("self_test.latency", text)
    if metrics["processor_p95_ms"] > budget.latency_p95_ms:
        text = (
            f"a window takes {metrics['processor_p95_ms']:.2f} ms of each processor that it uses (p95); the budget is "
            f"{budget.latency_p95_ms} ms"
        )
        raise AgentError("self_test.latency", text)
    if metrics["rss_growth_mb"] > budget.rss_growth_mb:
        text = (
            f"memory grew by {metrics['rss_growth_mb']:.1f} MB with {MAX_BATCH} windows in a call; the budget is "
            f"{budget.rss_growth_mb} MB; a model exported for one window a call needs less"
        )
        raise AgentError("self_test.memory", text)
    return metrics


def _compare(bundle: Bundle, golden: dict[str, NDArray[Any]], evaluation: Evaluation) -> dict[str, float]:
    """Return the greatest difference of features, outputs and scores; raise where one is beyond the manifest's
    tolerance."""
    tolerance = bundle.manifest.golden_for(runtime_name(bundle.model))
    checks = (
        ("features", golden["model_input"], evaluation.model_input, tolerance.feature_rtol, tolerance.feature_rtol),
        ("output", golden["model_output"], evaluation.model_output, tolerance.output_atol, 0.0),
        ("score", golden["score"], evaluation.scores.score, max(1e-9, tolerance.score_atol), tolerance.score_rtol),
    )
    metrics: dict[str, float] = {}
    for what, expected, computed, atol, rtol in checks:
        if expected.shape != computed.shape:
            raise AgentError(
                f"self_test.{what}",
                f"golden vectors: {what} has the shape {expected.shape}, on this board {computed.shape}",
            )
        error = np.abs(np.asarray(computed, dtype=np.float64) - expected)
        worst = float(np.max(error))
        if not np.all(error <= atol + rtol * np.abs(expected)):  # a comparison with NaN is false
            raise AgentError(f"self_test.{what}", f"golden vectors: {what} differs by up to {worst:.4g} on this board")
        metrics[f"{what}_error"] = worst
    return metrics
