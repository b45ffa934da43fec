"""What is decided about somebody's model so far, and the manifest that says so.

Invariant: a draft is data. Manifests that are made of it run in the agent's process, first to find out how the model's
input is scaled and its output is read, then to be released.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from wheeltapper_fleet.training.errors import TrainingError
from wheeltapper_fleet.training.own_input import Placement
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.scoring import Z_LIMIT, Scorer, ScoringSpec
from wheeltapper_protocols.manifest.inference_task import raw_input
from wheeltapper_protocols.manifest.manifest import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    Anomaly,
    Budget,
    BundleFile,
    Classification,
    Golden,
    Input,
    Manifest,
    RawInput,
    RemainingLife,
    TensorSpec,
    encode_manifest,
)
from wheeltapper_protocols.signal.features import FeatureSet, FeatureSpec, default_specs
from wheeltapper_protocols.signal.npz import write_npz

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Answers", "Ask", "Draft", "Head", "Scaling", "bytes_of", "entries", "features_of", "scaling_of", "trial",
]  # fmt: skip

Head = Anomaly | Classification | RemainingLife | None
"""How the output is read; None: it reconstructs features."""

Ask = Callable[[str, str, Sequence[str]], str]
"""Called with an option's name, a question and the choices (empty: a free text); returns the answer."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the caller says beforehand. Empty: it is found from model and data, or asked."""

    name: str = "own-model"
    task: str = ""
    """``score``, ``reconstruction`` (both of the task anomaly), ``classification`` or ``remaining_life``."""
    output: str = ""
    signature: str = ""
    input: str = ""
    """``features``, ``flat``, ``sample_channel`` or ``channel_sample``."""
    window_samples: int = 0
    scaling: str = ""
    """``none``, ``standard``, ``log``, or a file with the arrays ``center`` and ``scale``."""
    classes: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
    threshold: float = 0.0
    unit: str = ""
    life_scale: float = 1.0
    cap: float = 0.0
    warn_at: float = 0.0
    tensors: tuple[TensorSpec, ...] = ()
    claim: tuple[str, ...] = ()
    budget: Budget = field(default_factory=lambda: Budget(latency_p95_ms=50.0, rss_growth_mb=96.0))


@dataclass(frozen=True)
class Scaling:
    """``(value - center) / scale`` of each channel, or of each feature after its transform."""

    name: str
    center: tuple[float, ...]
    scale: tuple[float, ...]
    transform: Literal["affine", "log"] = "affine"


@dataclass(frozen=True)
class Draft:
    """A model with what is known about it."""

    content: bytes
    runtime: Literal["onnx", "tflite"]
    input: Input
    placement: Placement
    task: str
    output: str = ""
    signature: str = ""
    tensors: tuple[TensorSpec, ...] = ()
    name: str = "own-model"

    @property
    def specs(self) -> list[FeatureSpec]:
        """The features that the model reads; none where it reads samples."""
        shape = self.input
        if self.placement.kind == "raw":
            return []
        return default_specs(shape.sample_rate_hz, shape.channels, shape.window_samples)

    def sections(self, scaling: Scaling, threshold: float = 1.0) -> tuple[RawInput | None, ScoringSpec | None]:
        """The sections ``raw`` and ``scoring``, of which there is one."""
        if self.placement.kind == "raw":
            raw = RawInput(
                channels=list(range(len(self.input.channels))), center=list(scaling.center), scale=list(scaling.scale),
                layout=self.placement.layout,
            )  # fmt: skip
            return raw, None
        ones = [1.0] * len(self.specs)
        scoring = ScoringSpec(
            transform=[scaling.transform] * len(ones), center=list(scaling.center), scale=list(scaling.scale),
            weight=ones, down=ones, threshold=threshold,
        )  # fmt: skip
        return None, scoring

    def model_input(self, scaling: Scaling, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[window, …]: what a device gives to the model for windows [window, sample, channel]."""
        raw, scoring = self.sections(scaling)
        if raw is not None:
            return raw_input(raw, samples)
        assert scoring is not None  # there is one of the two
        return Scorer(scoring, tuple(spec.name for spec in self.specs)).model_input(features_of(self, samples))

    def manifest(self, scaling: Scaling, head: Head, **fields: Any) -> Manifest:
        """The manifest of the draft.

        Args:
            scaling: of the model's input.
            head: how the output is read; None: a reconstruction of features, whose threshold is 1 unless the field
                ``threshold`` is given.
            fields: of the manifest.
        """
        raw, scoring = self.sections(scaling, fields.pop("threshold", 1.0))
        sections = {Anomaly: "anomaly", Classification: "classification", RemainingLife: "remaining_life"}
        if head is not None:
            fields[sections[type(head)]] = head
        given: dict[str, Any] = {
            "model": self.name,
            "task": sections[type(head)] if head is not None else "anomaly",
            "runtime": self.runtime,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "input": self.input,
            "features": self.specs,
            "raw": raw,
            "scoring": scoring,
            "output": self.output or None,
            "signature": self.signature or None,
            "tensors": list(self.tensors) or None,
            "decision": DecisionSpec(),
            "golden": Golden(output_atol=0.0, score_rtol=0.0),
            "budget": Budget(latency_p95_ms=50.0, rss_growth_mb=96.0),
        }
        return Manifest(**(given | fields))


def bytes_of(arrays: dict[str, npt.NDArray[Any]]) -> bytes:
    """Arrays, by name, as the bytes of an ``.npz`` file."""
    buffer = io.BytesIO()
    write_npz(arrays, buffer)
    return buffer.getvalue()


def entries(files: dict[str, bytes]) -> list[BundleFile]:
    """The manifest's entries for files."""
    return [
        BundleFile(name=name, sha256=hashlib.sha256(content).hexdigest(), length=len(content))
        for name, content in files.items()
    ]


@contextmanager
def trial(draft: Draft, scaling: Scaling, head: Head, **fields: Any) -> Iterator[Path]:
    """A bundle of the draft in a temporary folder, which an agent can evaluate; its golden vectors are no vectors."""
    golden = bytes_of({"samples": np.zeros((1, draft.input.window_samples, len(draft.input.channels)), np.float32)})
    files = {MODEL_FILES[draft.runtime]: draft.content, GOLDEN_FILE: golden}
    manifest = draft.manifest(scaling, head, files=entries(files), **fields)
    with TemporaryDirectory(prefix="wheeltapper-") as place:
        for name, content in (files | {MANIFEST_FILE: encode_manifest(manifest)}).items():
            Path(place, name).write_bytes(content)
        yield Path(place)


def features_of(draft: Draft, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """[window, feature]: the features that the model reads, before they are scaled."""
    shape = draft.input
    features = FeatureSet(draft.specs, shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    step = max(1, 2**22 // max(1, samples[0].size))
    return np.concatenate([features.compute(samples[at : at + step]) for at in range(0, len(samples), step)])


def scaling_of(name: str, draft: Draft, samples: npt.NDArray[np.float32]) -> Scaling:
    """The scaling called ``name``.

    Args:
        name: ``none``, ``standard`` or ``log`` (mean and deviation of ``samples``), or an ``.npz`` file with the arrays
            ``center`` and ``scale``, and perhaps ``transform``.
        draft: says what is scaled.
        samples: [window, sample, channel].

    Raises:
        TrainingError: ``bundle.scaling``.
    """
    raw = draft.placement.kind == "raw"
    count = len(draft.input.channels) if raw else len(draft.specs)
    if name not in ("none", "standard", "log"):
        return _from_file(Path(name), count, raw)
    if name == "log" and raw:
        raise TrainingError(
            "bundle.scaling", "samples have both signs and no logarithm: give --scaling none or standard"
        )
    transform: Literal["affine", "log"] = "log" if name == "log" else "affine"
    values = samples.reshape(-1, count) if raw else features_of(draft, samples)
    if name == "none":
        if not raw and (largest := float(np.abs(values).max())) > Z_LIMIT:
            worst = draft.specs[int(np.abs(values).max(axis=0).argmax())].name
            text = f"the feature {worst} reaches {largest:.4g}, and a model's input is bounded at {Z_LIMIT:g}"
            raise TrainingError(
                "bundle.scaling", f"{text}: train on standardised features (`wheeltapper bundle features --out x.npz`)"
            )
        return Scaling(name, (0.0,) * count, (1.0,) * count)
    if transform == "log":
        values = np.log(np.maximum(values, 1e-9))
    deviation = values.std(axis=0, dtype=np.float64)
    center = values.mean(axis=0, dtype=np.float64)
    scale = np.where(deviation > 0, deviation, 1.0)
    return Scaling(name, tuple(center.tolist()), tuple(scale.tolist()), transform)


def _from_file(path: Path, count: int, raw: bool) -> Scaling:
    """A scaling that somebody wrote, such as `wheeltapper bundle features --out x.npz`."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            center, scale = (np.asarray(archive[key], dtype=np.float64).reshape(-1) for key in ("center", "scale"))
            transform = str(archive["transform"]) if "transform" in archive.files else "affine"
    except Exception as error:  # numpy and zipfile raise many kinds on foreign bytes
        text = f"{path} is neither none, standard or log, nor an .npz with the arrays center and scale"
        raise TrainingError("bundle.scaling", text) from error
    sound = np.isfinite(center).all() and np.isfinite(scale).all() and (scale > 0).all()
    if len(center) != count or len(scale) != count or not sound or transform not in ("affine", "log"):
        what = "channels" if raw else "features"
        raise TrainingError(
            "bundle.scaling", f"{path}: center and scale must be {count} finite numbers, one for each of the {what}"
        )
    return Scaling(str(path), tuple(center.tolist()), tuple(scale.tolist()), "log" if transform == "log" else "affine")
