"""Whether a device can run a release at all, as far as its files say. Neither a runtime nor ``onnx`` is needed. Pure.

Asked where the release is signed and again where it is published, so that what every device would refuse is refused
before a campaign begins.
"""

from __future__ import annotations

from collections.abc import Callable

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_protocols.decision.bearing_detector import BearingFaultDetector
from wheeltapper_protocols.errors import ProtocolError
from wheeltapper_protocols.manifest.inference_task import InferenceTask
from wheeltapper_protocols.manifest.manifest import Manifest
from wheeltapper_protocols.manifest.model_file import check_model_file
from wheeltapper_protocols.signal.features import FeatureSet

__all__ = ["check_runnable"]


def check_runnable(manifest: Manifest, read: Callable[[str], bytes]) -> None:
    """Check a release for what every device refuses.

    Args:
        manifest: of the release.
        read: gives the content of a file of it, by name.

    Raises:
        FleetError: ``bundle.invalid``: the manifest describes features or a task that cannot be computed.
        WireError: ``runtime.*``, as :func:`wheeltapper_protocols.manifest.model_file.check_model_file`.
    """
    shape = manifest.input
    signal_shape = (shape.sample_rate_hz, shape.window_samples, len(shape.channels))
    try:
        FeatureSet(manifest.features, *signal_shape)
        InferenceTask(manifest)
        if manifest.bearing is not None:
            BearingFaultDetector(manifest.bearing, *signal_shape)
    except (ProtocolError, ValueError, IndexError, KeyError) as error:
        text = f"the manifest describes what no device can compute: {error}; correct it"
        raise FleetError("bundle.invalid", text, 422) from error
    for each in manifest.formats():
        check_model_file(each, read(each.model_file))
