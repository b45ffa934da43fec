"""Nets of recipes in 8 bits: layers stay float until the recipe's own gate holds, and what is slow is not kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fleet.training.test_tflite import blocks, lite
from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.convnet_onnx import net_layers, quantize, to_onnx
from wheeltapper_fleet.training.quantize import Method, chosen
from wheeltapper_fleet.training.tflite_nets import nets_to_tflite


def net_method() -> tuple[bytes, Any, NDArray[np.float32]]:
    """Nets of a recipe in floating point, with how they are quantised and what they lose."""
    nets, front, x = blocks()
    exact = to_onnx(nets, front, x.shape[1], x.shape[2])
    wanted = open_session(exact).run(["output"], {"input": x})[0]

    def loss(model: bytes) -> float:
        return float(np.sqrt(np.mean((open_session(model).run(["output"], {"input": x})[0] - wanted) ** 2)))

    return exact, Method(net_layers(exact), lambda kept: quantize(exact, x, kept), loss), x


def test_a_recipe_keeps_layers_in_floating_point_until_its_own_gate_holds() -> None:
    exact, method, x = net_method()
    whole = chosen(exact, method, x[:1], limit=1.0, slower=np.inf)
    assert (whole.kept, whole.float_layers) == ("int8", ())
    assert whole.lineage["precision"] == "int8"
    mixed = chosen(exact, method, x[:1], limit=0.7 * whole.loss, slower=np.inf)
    assert mixed.kept == "mixed"
    assert 0 < len(mixed.float_layers) < len(method.layers)
    assert mixed.loss <= 0.7 * whole.loss < mixed.full_loss
    assert mixed.lineage["float_layers"] == ", ".join(mixed.float_layers)
    nets, front, _ = blocks()
    found = lite(nets_to_tflite(nets, front, x.shape[1], x.shape[2], mixed.content), x[:50])
    wanted = open_session(mixed.content).run(["output"], {"input": x[:50]})[0]
    assert np.abs(found - wanted).max() <= 0.1 * np.abs(wanted).max() * whole.loss / whole.full_loss


def test_a_recipe_keeps_floating_point_where_8_bits_lose_too_much_or_are_slow() -> None:
    exact, method, x = net_method()
    for limit, slower, told in ((0.0, 1.5, "8 bits lose"), (1.0, 0.0, "µs a window here, float")):
        found = chosen(exact, method, x[:1], limit=limit, slower=slower)
        assert (found.kept, found.content) == ("float", exact)
        assert told in found.why
        assert min(found.float_ms, found.int8_ms) > 0
