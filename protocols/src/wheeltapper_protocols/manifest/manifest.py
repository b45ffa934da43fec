"""The manifest of a bundle: the signed document that names every file of a release and says how to run it.

The model's input is the ``features``, standardised by the section ``scoring``; with the section ``raw`` it is the
samples.

Invariants:
    * File names have no folder. Each file has its SHA-256 and length, and sizes are capped.
    * The model and the golden vectors are among the files.
    * ``release`` is None until the bundle is published: the number is set when the manifest is signed.
    * Equal manifests have equal bytes. Sections that are None are not written, so that a manifest that was written
      before a section existed keeps its bytes.

What this module does not do: verify signatures, read files, run the model (:mod:`inference_task`).
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from wheeltapper_protocols.decision.baseline import BaselineSpec
from wheeltapper_protocols.decision.bearing import BearingSpec
from wheeltapper_protocols.decision.condition import ConditionSpec
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.evidence import EvidenceSpec
from wheeltapper_protocols.decision.interval import Interval
from wheeltapper_protocols.decision.reasons import UsualBand
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.drift.drift import DriftSpec
from wheeltapper_protocols.drift.estimation import EstimationSpec
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.manifest.runtimes import (
    MODEL_FILES,
    RUNTIMES,
    ClaimedRuntime,
    Golden,
    Variant,
    check_claims,
    golden_file,
)
from wheeltapper_protocols.signal.feature_kinds import SPECTRAL_KINDS, FeatureSpec
from wheeltapper_protocols.signal.iso20816 import Iso20816, velocity_feature_specs
from wheeltapper_protocols.wire.ids import SHA256_PATTERN
from wheeltapper_protocols.wire.messages import Name, Release

__all__ = [
    "GOLDEN_FILE",
    "MANIFEST_FILE",
    "MAX_FILE_BYTES",
    "MAX_MANIFEST_BYTES",
    "MODEL_FILE",
    "MODEL_FILES",
    "RUNTIMES",
    "Anomaly",
    "Budget",
    "BundleFile",
    "ClaimedRuntime",
    "Classification",
    "Gate",
    "Golden",
    "Input",
    "Manifest",
    "RawInput",
    "RemainingLife",
    "Shadowing",
    "TensorSpec",
    "Variant",
    "check_file",
    "decode_manifest",
    "encode_manifest",
    "golden_file",
]

MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = MODEL_FILES["onnx"]
GOLDEN_FILE: Final = "golden.npz"
"""Inputs with their expected outputs; see :class:`Golden`."""
MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_FILE_BYTES: Final = 256 * 1024 * 1024


class BundleFile(Struct, frozen=True, kw_only=True):
    """One file of a release. Its content is stored and fetched by its ``sha256``; ``length`` is in bytes."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    sha256: Annotated[str, Meta(pattern=SHA256_PATTERN)]
    length: Annotated[int, Meta(ge=1, le=MAX_FILE_BYTES)]


class Input(Struct, frozen=True, kw_only=True):
    """The windows that the release takes: [sample, channel] at ``sample_rate_hz``, each channel in its unit."""

    sample_rate_hz: Annotated[float, Meta(gt=0, le=1e9)]
    window_samples: Annotated[int, Meta(ge=1, le=2**20)]
    channels: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(min_length=1, max_length=64)]
    units: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(min_length=1, max_length=64)]
    irregular: bool = False
    """Whether samples come at no fixed rate: ``sample_rate_hz`` is the usual one, and nothing may be computed from it.
    """


class RawInput(Struct, frozen=True, kw_only=True):
    """The section ``raw``: the model's input is ``(sample - center) / scale`` of each of ``channels`` (indices)."""

    channels: Annotated[list[Annotated[int, Meta(ge=0, le=63)]], Meta(min_length=1, max_length=64)]
    center: Annotated[list[float], Meta(min_length=1, max_length=64)]
    scale: Annotated[list[float], Meta(min_length=1, max_length=64)]
    layout: Literal["flat", "sample_channel", "channel_sample"] = "sample_channel"
    """Axes of one window; ``flat`` is ``sample_channel`` as one row."""

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.center) == len(self.scale):
            raise ValueError("channels, center and scale of the section raw must have the same length")
        if not all(math.isfinite(value) for value in (*self.center, *self.scale)) or min(self.scale) <= 0:
            raise ValueError("center and scale of the section raw must be finite, and scale above 0")


TensorName: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]


class TensorSpec(Struct, frozen=True, kw_only=True):
    """Quantisation of one input or output of the model, where the model's file does not state it.

    The real value of a quantised one is ``(value - zero_point) * scale``.
    """

    name: Annotated[str, Meta(max_length=200)]
    scale: Annotated[float, Meta(gt=0)]
    zero_point: Annotated[int, Meta(ge=-32768, le=65535)] = 0


class Anomaly(Struct, frozen=True, kw_only=True):
    """The section ``anomaly``: how a model's output becomes a score, where that is not the section ``scoring``.

    ``reconstruction``: the output reconstructs the raw samples; the score is the root mean square residual over
    ``threshold``. ``score``: the output is one number; the score is this number over ``threshold``.
    """

    output: Literal["reconstruction", "score"]
    threshold: Annotated[float, Meta(gt=0, le=1e12)]


class Classification(Struct, frozen=True, kw_only=True):
    """The section ``classification``: the output is one value for each class.

    The score is the probability that the class is none of ``normal``, over ``threshold``.
    """

    classes: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(min_length=2, max_length=256)]
    normal: Annotated[list[str], Meta(min_length=1, max_length=255)]
    output: Literal["logits", "probabilities"] = "probabilities"
    threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or not set(self.normal) < set(self.classes):
            raise ValueError("classes must differ, and normal must name some of them but not all")


class RemainingLife(Struct, frozen=True, kw_only=True):
    """The section ``remaining_life``: the output times ``scale`` is the life that remains, in ``unit``.

    The score is ``warn_at`` over the life that remains.
    """

    unit: Literal["seconds", "hours", "cycles"] = "hours"
    scale: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    cap: Annotated[float, Meta(gt=0, le=1e9)]
    """The longest life that the model was trained to predict; a longer one counts as this."""
    warn_at: Annotated[float, Meta(gt=0, le=1e9)]
    interval: Interval | None = None
    """How far the true life may be from the predicted one."""

    def __post_init__(self) -> None:
        if self.warn_at >= self.cap:
            raise ValueError("warn_at must be below cap: otherwise every window is a warning")


class Budget(Struct, frozen=True, kw_only=True):
    """The section ``budget``: what the model may cost on a board."""

    latency_p95_ms: Annotated[float, Meta(gt=0)]
    """The 95 % quantile of the time for one window, in milliseconds."""
    rss_growth_mb: Annotated[float, Meta(gt=0)]
    """Growth of the process's resident memory, in MB."""


class Shadowing(Struct, frozen=True, kw_only=True):
    """The section ``shadow``: what the release requires of its shadow run, where that is more than the device does."""

    windows: Annotated[int, Meta(ge=0, le=10_000)] = 0
    """Least number of windows."""
    min_agreement: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Least share of windows for which both releases decide on the same severity. 0: it is only reported."""


class Gate(Struct, frozen=True, kw_only=True):
    """One condition that the candidate met before it became a release: the measured ``value`` and its ``limit``."""

    name: Annotated[str, Meta(max_length=80)]
    value: float
    limit: float
    passed: bool
    detail: Annotated[str, Meta(max_length=500)] = ""


class Manifest(Struct, frozen=True, kw_only=True):
    """Everything that a device needs to know to run a release."""

    format: Annotated[int, Meta(ge=1, le=1)] = 1
    model: Name
    release: Release | None = None
    rollback_floor: Release | None = None
    """A device that has committed this release refuses every release of this model below this number."""
    task: Literal["anomaly", "classification", "remaining_life"] = "anomaly"
    runtime: Literal["onnx", "tflite"] = "onnx"
    created_at: Annotated[str, Meta(max_length=40)]
    """ISO 8601, UTC."""
    files: Annotated[list[BundleFile], Meta(min_length=1, max_length=64)]
    input: Input
    features: Annotated[list[FeatureSpec], Meta(max_length=512)]
    missing_channels: Annotated[int, Meta(ge=0, le=63)] = 0
    """So many channels may be missing in a window: it is scored by the others. 0: it gets no score."""
    raw: RawInput | None = None
    scoring: ScoringSpec | None = None
    """Required for features; None for raw samples."""
    condition: ConditionSpec | None = None
    """What is usual in which operating condition; None: the section ``scoring`` holds for all."""
    evidence: EvidenceSpec | None = None
    """Several detectors that decide together; None: the section ``scoring`` alone decides."""
    anomaly: Anomaly | None = None
    classification: Classification | None = None
    remaining_life: RemainingLife | None = None
    output: TensorName | None = None
    """The model's output that is read, where it has several. In TFLite the tensor's name or the signature's for it."""
    signature: TensorName | None = None
    """The signature of a TFLite model that is run, where it has several."""
    tensors: Annotated[list[TensorSpec], Meta(max_length=64)] | None = None
    bands: Annotated[list[UsualBand], Meta(min_length=1, max_length=128)] | None = None
    """Usual levels of bands of raw samples, for the reasons of an alert."""
    iso20816: Iso20816 | None = None
    bearing: BearingSpec | None = None
    """A bearing whose faults alerts name."""
    baseline: BaselineSpec | None = None
    """How a device learns its own center and scale; None: it scores with those of the section ``scoring``."""
    decision: DecisionSpec
    drift: DriftSpec | None = None
    """References of features and scores; None: drift is not measured."""
    estimation: EstimationSpec | None = None
    """What held-out windows of each score were in truth; None: quality is not estimated without labels."""
    golden: Golden
    runtimes: Annotated[list[ClaimedRuntime], Meta(min_length=1, max_length=8)] | None = None
    """The runtimes that the release claims. A device that has none of them refuses it; None: any that reads the model.
    """
    variants: Annotated[list[Variant], Meta(min_length=1, max_length=4)] | None = None
    """The same model in other formats, for boards without a runtime of the first; None: there is none."""
    budget: Budget
    shadow: Shadowing | None = None
    gates: Annotated[list[Gate], Meta(max_length=64)] = []
    lineage: dict[str, str] = {}
    """Origin of the release: SHA-256 of recordings, the recipe, versions of libraries."""

    def __post_init__(self) -> None:
        if self.rollback_floor is not None and self.release is not None and self.rollback_floor > self.release:
            raise ValueError("rollback_floor is above the release itself")
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError("two files have the same name")
        for needed in (self.model_file, GOLDEN_FILE):
            if needed not in names:
                raise ValueError(f"the file {needed} is missing")
        if MANIFEST_FILE in names:
            raise ValueError(f"{MANIFEST_FILE} cannot be among the files: it names them")
        if len(self.input.channels) != len(self.input.units):
            raise ValueError("channels and units must have the same length")
        self._check_task()
        self._check_estimation()
        self._check_channels()
        self._check_runtimes(names)

    def _check_task(self) -> None:
        if self.signature is not None and self.runtime != "tflite":
            raise ValueError("only TFLite models have signatures: leave out signature")
        if not self.features and self.raw is None:
            raise ValueError("the manifest needs features or the section raw")
        if self.raw is None and self.scoring is None:
            raise ValueError("features need the section scoring")
        if (self.task == "classification") != (self.classification is not None):
            raise ValueError("the task classification needs the section classification, and no other task may have it")
        if (self.task == "remaining_life") != (self.remaining_life is not None):
            raise ValueError("the task remaining_life needs the section remaining_life, and no other task may have it")
        if self.anomaly is not None and self.task != "anomaly":
            raise ValueError("only the task anomaly may have the section anomaly")
        if self.task == "anomaly" and self.raw is not None and self.anomaly is None:
            raise ValueError("the task anomaly with raw samples needs the section anomaly")
        if self.anomaly is not None and self.anomaly.output == "reconstruction" and self.raw is None:
            raise ValueError("reconstructed features are scored by the section scoring: leave out the section anomaly")
        if self.evidence is not None and (self.scoring is None or self.task != "anomaly" or self.anomaly is not None):
            raise ValueError("the section evidence is for the task anomaly on features: leave it out, or add scoring")
        if self.condition is not None and (self.scoring is None or self.task != "anomaly"):
            raise ValueError("the section condition is for the task anomaly on features")
        detectors = self.evidence.detectors if self.evidence is not None else []
        if any(index >= len(self.features) for each in detectors for index in each.features):
            raise ValueError(f"a detector names a feature that is not there: there are {len(self.features)}")
        if self.bands is not None and self.raw is None:
            raise ValueError("the section bands is for raw samples only: features are reasons themselves")
        if self.drift is not None and len(self.drift.features) != len(self.features):
            raise ValueError("the section drift needs one reference for each feature")
        if self.missing_channels and (self.raw is not None or self.task != "anomaly" or self.anomaly is not None):
            raise ValueError(
                "only a score of reconstructed features can do without channels: missing_channels must be 0"
            )
        if self.missing_channels >= len(self.input.channels):
            raise ValueError("missing_channels must be less than there are channels")
        if self.baseline is not None and (self.raw is not None or len(self.baseline.shift) != len(self.features)):
            raise ValueError("the section baseline is for features only, and needs one entry for each of them")

    def _check_estimation(self) -> None:
        if self.estimation is None:
            return
        if self.estimation.kind != self.task:
            raise ValueError(f"the section estimation is of {self.estimation.kind}, the task is {self.task}")
        if self.drift is None or len(self.drift.score.counts) != len(self.estimation.groups[0].windows):
            raise ValueError("the section estimation needs the section drift, and the bins of its score")

    def _check_runtimes(self, files: list[str]) -> None:
        if self.runtimes is not None:
            check_claims(self.runtime, self.runtimes, files)
        formats = [self.runtime, *(each.runtime for each in self.variants or ())]
        if len(set(formats)) != len(formats):
            raise ValueError("variants names a format twice, or that of the manifest")
        if self.variants is not None and (self.output, self.signature, self.tensors) != (None, None, None):
            raise ValueError("output, signature and tensors are of one format: leave them out, or leave out variants")
        for each in self.variants or ():
            if MODEL_FILES[each.runtime] not in files:
                raise ValueError(f"the file {MODEL_FILES[each.runtime]} of a variant is missing")
            check_claims(each.runtime, each.runtimes, files)

    def _check_channels(self) -> None:
        count, nyquist_hz = len(self.input.channels), self.input.sample_rate_hz / 2
        named = [*(self.raw.channels if self.raw else ()), *(band.channel for band in self.bands or ())]
        if self.bearing is not None:
            named.append(self.bearing.channel)
        if any(channel >= count for channel in named):
            raise ValueError(f"a section names channel {max(named)}, but there are {count} channels, counted from 0")
        if any(band.high_hz > nyquist_hz * 1.001 for band in self.bands or ()):
            raise ValueError(f"a band reaches beyond half of the sample rate, {nyquist_hz:g} Hz")
        if self.input.irregular and (
            self.bands is not None
            or self.iso20816 is not None
            or self.bearing is not None
            or any(spec.kind in SPECTRAL_KINDS for spec in self.features)
        ):
            raise ValueError("samples at no fixed rate have no spectrum: leave out bands, lines and velocities")
        if self.iso20816 is not None:
            velocity_feature_specs(self.iso20816, self.input.channels, self.input.units)
            if self.iso20816.high_hz > nyquist_hz * 1.001:
                raise ValueError(
                    f"iso20816 reaches to {self.iso20816.high_hz:g} Hz, half of the sample rate is {nyquist_hz:g} Hz"
                )
            seconds = self.input.window_samples / self.input.sample_rate_hz
            if seconds * self.iso20816.low_hz < 0.5:  # less than half a period of the lowest frequency
                raise ValueError(
                    f"a window of {seconds:g} s is too short for iso20816 from {self.iso20816.low_hz:g} Hz on"
                )

    @property
    def model_file(self) -> str:
        """The name of the model's file."""
        return MODEL_FILES[self.runtime]

    def formats(self) -> list[Manifest]:
        """This manifest for each format that the model has, that of the manifest first; each has no variants."""
        if self.variants is None:
            return [self]
        plain = msgspec.structs.replace(self, variants=None)
        others = (msgspec.structs.replace(plain, runtime=v.runtime, runtimes=v.runtimes) for v in self.variants)
        return [plain, *others]

    def golden_for(self, runtime: str) -> Golden:
        """The tolerances for the runtime called ``runtime``."""
        for entry in self.runtimes or ():
            if entry.name == runtime and entry.golden is not None:
                return entry.golden
        return self.golden

    def file(self, name: str) -> BundleFile:
        """The file called ``name``.

        Raises:
            KeyError: there is none.
        """
        for file in self.files:
            if file.name == name:
                return file
        raise KeyError(name)


_DECODER: Final = msgspec.json.Decoder(Manifest)
_OMITTED: Final = (
    "rollback_floor",
    "raw",
    "scoring",
    "condition",
    "evidence",
    "anomaly",
    "classification",
    "remaining_life",
    "output",
    "signature",
    "tensors",
    "bands",
    "iso20816",
    "bearing",
    "baseline",
    "drift",
    "estimation",
    "runtimes",
    "variants",
    "shadow",
)
"""Fields that are not written where they are None."""
_OMITTED_OF_DECISION: Final = ("minimum_alert_windows", "slow_drift", "slow_limit")
"""Fields of the section ``decision`` that are not written where they are 0."""


def encode_manifest(manifest: Manifest) -> bytes:
    """The bytes of a manifest: JSON with sorted keys. Equal manifests have equal bytes, and so equal hashes."""
    fields = msgspec.to_builtins(manifest, order="deterministic")
    for name in _OMITTED:
        if fields[name] is None:
            del fields[name]
    for name in _OMITTED_OF_DECISION:
        if not fields["decision"][name]:
            del fields["decision"][name]
    if not fields["missing_channels"]:
        del fields["missing_channels"]
    if not fields["input"]["irregular"]:
        del fields["input"]["irregular"]
    if manifest.remaining_life is not None and manifest.remaining_life.interval is None:
        del fields["remaining_life"]["interval"]
    claims = [fields.get("runtimes") or (), *(variant["runtimes"] for variant in fields.get("variants", ()))]
    for golden in (fields["golden"], *(entry["golden"] for each in claims for entry in each)):
        if golden is not None and not golden["score_atol"]:
            del golden["score_atol"]
    return msgspec.json.format(msgspec.json.encode(fields), indent=1)


def decode_manifest(payload: bytes) -> Manifest:
    """The manifest in ``payload``. The caller verifies the signature over the bytes before it uses the result.

    Raises:
        WireError: ``manifest.too_large``, ``manifest.malformed``.
    """
    if len(payload) > MAX_MANIFEST_BYTES:
        raise WireError("manifest.too_large", f"the manifest has {len(payload)} bytes; the cap is {MAX_MANIFEST_BYTES}")
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise WireError("manifest.malformed", f"the manifest cannot be read: {error}") from error


def check_file(file: BundleFile, content: bytes) -> None:
    """Check that ``content`` has the length and hash that the manifest states for ``file``.

    Raises:
        WireError: ``manifest.length`` or ``manifest.hash``.
    """
    if len(content) != file.length:
        raise WireError("manifest.length", f"{file.name} has {len(content)} bytes, the manifest states {file.length}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise WireError("manifest.hash", f"{file.name} does not have the SHA-256 that the manifest states")
