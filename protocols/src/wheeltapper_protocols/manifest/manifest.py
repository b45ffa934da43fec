"""The manifest of a bundle: the one signed document that names every file of a release and how to run it.

Invariants: file names are plain (no folder), each file is named by SHA-256 and length, sizes are capped, the golden
vectors are one of the files. ``release`` is None in a bundle that has not been published; the number is given when it
is signed. Sections that a manifest does not have are not written, so that manifests from before there were such
sections keep their bytes.

What the network reads is either the ``features`` (standardised by ``scoring``) or, where ``raw`` is there, the samples.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from wheeltapper_protocols.decision.bearing import BearingSpec
from wheeltapper_protocols.decision.decision import DecisionSpec
from wheeltapper_protocols.decision.reasons import UsualBand
from wheeltapper_protocols.decision.scoring import ScoringSpec
from wheeltapper_protocols.drift.drift import DriftSpec
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.signal.features import FeatureSpec
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
    "Anomaly",
    "Budget",
    "BundleFile",
    "Classification",
    "Gate",
    "Golden",
    "Input",
    "Manifest",
    "RawInput",
    "RemainingLife",
    "Shadowing",
    "TensorSpec",
    "check_file",
    "decode_manifest",
    "encode_manifest",
]

MANIFEST_FILE: Final = "manifest.json"
MODEL_FILE: Final = "model.onnx"
MODEL_FILES: Final = {"onnx": MODEL_FILE, "tflite": "model.tflite"}
"""The network's file by the manifest's runtime."""
GOLDEN_FILE: Final = "golden.npz"
MAX_MANIFEST_BYTES: Final = 1024 * 1024
MAX_FILE_BYTES: Final = 256 * 1024 * 1024


class BundleFile(Struct, frozen=True, kw_only=True):
    """One file of a release; its blob is found by ``sha256``."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
    sha256: Annotated[str, Meta(pattern=SHA256_PATTERN)]
    length: Annotated[int, Meta(ge=1, le=MAX_FILE_BYTES)]


class Input(Struct, frozen=True, kw_only=True):
    """What a window must look like: samples [window_samples, len(channels)] at ``sample_rate_hz``, in ``units``."""

    sample_rate_hz: Annotated[float, Meta(gt=0, le=1e9)]
    window_samples: Annotated[int, Meta(ge=16, le=2**20)]
    channels: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(min_length=1, max_length=64)]
    units: Annotated[list[Annotated[str, Meta(max_length=32)]], Meta(min_length=1, max_length=64)]


class RawInput(Struct, frozen=True, kw_only=True):
    """The network reads samples: ``(sample - center) / scale`` of each of ``channels``, laid out as ``layout`` says."""

    channels: Annotated[list[Annotated[int, Meta(ge=0, le=63)]], Meta(min_length=1, max_length=64)]
    center: Annotated[list[float], Meta(min_length=1, max_length=64)]
    scale: Annotated[list[float], Meta(min_length=1, max_length=64)]
    layout: Literal["flat", "sample_channel", "channel_sample"] = "sample_channel"
    """``flat``: sample by sample, channels together, as one row."""

    def __post_init__(self) -> None:
        if not len(self.channels) == len(self.center) == len(self.scale):
            raise ValueError("channels, center and scale of the raw input differ in number")
        if not all(math.isfinite(value) for value in (*self.center, *self.scale)) or min(self.scale) <= 0:
            raise ValueError("center and scale of the raw input must be finite, scale above 0")


class TensorSpec(Struct, frozen=True, kw_only=True):
    """An input or output of the network where its file does not say enough.

    A quantised tensor stands for ``(value - zero_point) * scale``.
    """

    name: Annotated[str, Meta(max_length=200)]
    scale: Annotated[float, Meta(gt=0)]
    zero_point: Annotated[int, Meta(ge=-32768, le=65535)] = 0


class Anomaly(Struct, frozen=True, kw_only=True):
    """How the output of an anomaly network becomes a score, where ``scoring`` does not say: raw samples that it
    reconstructs (the threshold is of the root mean square residual), or a number that it gives itself."""

    output: Literal["reconstruction", "score"]
    threshold: Annotated[float, Meta(gt=0, le=1e12)]


class Classification(Struct, frozen=True, kw_only=True):
    """The output is one value a class; the score is the probability of no ``normal`` class over ``threshold``."""

    classes: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(min_length=2, max_length=256)]
    normal: Annotated[list[str], Meta(min_length=1, max_length=255)]
    output: Literal["logits", "probabilities"] = "probabilities"
    threshold: Annotated[float, Meta(gt=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        if len(set(self.classes)) != len(self.classes) or not set(self.normal) < set(self.classes):
            raise ValueError("classes must differ, and normal must name some of them but not all")


class RemainingLife(Struct, frozen=True, kw_only=True):
    """The output times ``scale`` is the life that remains, in ``unit``; the score is ``warn_at`` over it."""

    unit: Literal["seconds", "hours", "cycles"] = "hours"
    scale: Annotated[float, Meta(gt=0, le=1e9)] = 1.0
    cap: Annotated[float, Meta(gt=0, le=1e9)]
    """The longest life that the model was taught to tell from others."""
    warn_at: Annotated[float, Meta(gt=0, le=1e9)]

    def __post_init__(self) -> None:
        if self.warn_at >= self.cap:
            raise ValueError("warn_at must be below cap, or every window is one to warn of")


class Golden(Struct, frozen=True, kw_only=True):
    """How near the golden outputs a board must come.

    :data:`GOLDEN_FILE` holds the arrays ``samples`` [n, sample, channel] float32, ``model_input`` [n, …] float32 (what
    the network reads: standardised features, or samples), ``model_output`` [n, …] float32, ``score`` [n] float64.
    """

    output_atol: Annotated[float, Meta(ge=0)]
    score_rtol: Annotated[float, Meta(ge=0)]
    feature_rtol: Annotated[float, Meta(ge=0)] = 1e-4


class Budget(Struct, frozen=True, kw_only=True):
    """What the model may cost on the board."""

    latency_p95_ms: Annotated[float, Meta(gt=0)]
    rss_growth_mb: Annotated[float, Meta(gt=0)]


class Shadowing(Struct, frozen=True, kw_only=True):
    """What the release asks of its shadow run beside the active one; both raise what the device is set to."""

    windows: Annotated[int, Meta(ge=0, le=10_000)] = 0
    min_agreement: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Least share of windows of which both decide the same severity; 0: it is only reported."""


class Gate(Struct, frozen=True, kw_only=True):
    """One condition that the candidate had to meet before it became a release, with what was measured."""

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
    """A device that committed this release refuses every release of this model below it, for good."""
    task: Literal["anomaly", "classification", "remaining_life"] = "anomaly"
    runtime: Literal["onnx", "tflite"] = "onnx"
    created_at: Annotated[str, Meta(max_length=40)]
    """ISO 8601, UTC."""
    files: Annotated[list[BundleFile], Meta(min_length=1, max_length=64)]
    input: Input
    features: Annotated[list[FeatureSpec], Meta(max_length=512)]
    raw: RawInput | None = None
    scoring: ScoringSpec | None = None
    """Needed for features; a network that reads samples has none."""
    anomaly: Anomaly | None = None
    classification: Classification | None = None
    remaining_life: RemainingLife | None = None
    tensors: Annotated[list[TensorSpec], Meta(max_length=64)] | None = None
    bands: Annotated[list[UsualBand], Meta(min_length=1, max_length=128)] | None = None
    """What is usual of raw samples, for the reasons of an alert."""
    iso20816: Iso20816 | None = None
    bearing: BearingSpec | None = None
    """A bearing whose fault an alert shall name."""
    decision: DecisionSpec
    drift: DriftSpec | None = None
    """What to compare features and scores with; None: nothing is compared."""
    golden: Golden
    budget: Budget
    shadow: Shadowing | None = None
    gates: Annotated[list[Gate], Meta(max_length=64)] = []
    lineage: dict[str, str] = {}
    """Where it came from: recordings by SHA-256, the recipe, versions of the libraries."""

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
            raise ValueError("the manifest cannot name itself")
        if len(self.input.channels) != len(self.input.units):
            raise ValueError("channels and units differ in number")
        self._check_task()
        self._check_channels()

    def _check_task(self) -> None:
        if not self.features and self.raw is None:
            raise ValueError("the network needs features or raw samples")
        if self.raw is None and self.scoring is None:
            raise ValueError("features need the section scoring")
        if (self.task == "classification") != (self.classification is not None):
            raise ValueError("a classification, and only that, has the section classification")
        if (self.task == "remaining_life") != (self.remaining_life is not None):
            raise ValueError("a remaining_life, and only that, has the section remaining_life")
        if self.anomaly is not None and self.task != "anomaly":
            raise ValueError("only an anomaly has the section anomaly")
        if self.task == "anomaly" and self.raw is not None and self.anomaly is None:
            raise ValueError("an anomaly of raw samples needs the section anomaly")
        if self.anomaly is not None and self.anomaly.output == "reconstruction" and self.raw is None:
            raise ValueError(
                "what features reconstruct is judged by the section scoring: leave out the section anomaly"
            )
        if self.bands is not None and self.raw is None:
            raise ValueError("bands are the reasons of raw samples: features have their own")
        if self.drift is not None and len(self.drift.features) != len(self.features):
            raise ValueError("the section drift needs one reference a feature")

    def _check_channels(self) -> None:
        count, nyquist_hz = len(self.input.channels), self.input.sample_rate_hz / 2
        named = [*(self.raw.channels if self.raw else ()), *(band.channel for band in self.bands or ())]
        if self.bearing is not None:
            named.append(self.bearing.channel)
        if any(channel >= count for channel in named):
            raise ValueError(f"a section names channel {max(named)}; there are {count}")
        if any(band.high_hz > nyquist_hz * 1.001 for band in self.bands or ()):
            raise ValueError(f"a band reaches beyond half of the sample rate, {nyquist_hz:g} Hz")
        if self.iso20816 is not None:
            velocity_feature_specs(self.iso20816, self.input.channels, self.input.units)
            if self.iso20816.high_hz > nyquist_hz * 1.001:
                raise ValueError(
                    f"iso20816 reaches to {self.iso20816.high_hz:g} Hz, half of the sample rate is {nyquist_hz:g} Hz"
                )
            seconds = self.input.window_samples / self.input.sample_rate_hz
            if seconds * self.iso20816.low_hz < 0.5:  # not half a turn of the lowest frequency
                raise ValueError(
                    f"iso20816 begins at {self.iso20816.low_hz:g} Hz: a window of {seconds:g} s cannot show that"
                )

    @property
    def model_file(self) -> str:
        """The name of the network's file."""
        return MODEL_FILES[self.runtime]

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
    "anomaly",
    "classification",
    "remaining_life",
    "tensors",
    "bands",
    "iso20816",
    "bearing",
    "drift",
    "shadow",
)
"""Sections that are left out where they are None."""


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest's bytes: JSON with sorted keys, so that equal manifests have equal hashes."""
    fields = msgspec.to_builtins(manifest, order="deterministic")
    for name in _OMITTED:
        if fields[name] is None:
            del fields[name]
    if not fields["decision"]["minimum_alert_windows"]:
        del fields["decision"]["minimum_alert_windows"]
    return msgspec.json.format(msgspec.json.encode(fields), indent=1)


def decode_manifest(payload: bytes) -> Manifest:
    """Read a manifest.

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
    """Check that ``content`` is what the manifest names.

    Raises:
        WireError: ``manifest.length`` or ``manifest.hash``.
    """
    if len(content) != file.length:
        raise WireError("manifest.length", f"{file.name} has {len(content)} bytes, the manifest says {file.length}")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise WireError("manifest.hash", f"{file.name} does not have the SHA-256 that the manifest says")
