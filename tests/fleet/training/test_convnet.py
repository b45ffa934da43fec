"""The convolution net: its gradients, what it learns, and its ONNX graph beside numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wheeltapper_fleet.training.autoencoder import open_session
from wheeltapper_fleet.training.convnet import ConvNet, Convolution, Fit, fit, side_by_side
from wheeltapper_fleet.training.convnet_onnx import Front, Regimes, quantize, run, to_onnx

FORMS = [Convolution(5, 3, dilation=2, stride=2), Convolution(4, 3)]


@pytest.mark.parametrize("average", [False, True])
def test_gradients_are_those_of_finite_differences(average: bool) -> None:
    random = np.random.default_rng(0)
    net = ConvNet(16, 3, FORMS, hidden=6, outputs=2, average=average)
    net.start(random)
    net.weights = [np.asarray(weight, dtype=np.float64) for weight in net.weights]  # to be exact
    net.biases = [np.asarray(0.1 + bias, dtype=np.float64) for bias in net.biases]  # to be exact
    x: Any = random.normal(size=(4, 16, 3))
    wanted = random.normal(size=(4, 2))

    def loss() -> float:
        return float(0.5 * np.sum((net.predict(x) - wanted) ** 2))

    weights, biases = net.gradients(x, lambda output: output - wanted)
    for values, slopes in ((net.weights, weights), (net.biases, biases)):
        for value, slope in zip(values, slopes, strict=True):
            assert slope.shape == value.shape
            for index in random.integers(value.size, size=3):
                kept = value.flat[index]
                value.flat[index] = kept + 1e-6
                above = loss()
                value.flat[index] = kept - 1e-6
                below = loss()
                value.flat[index] = kept
                assert slope.flat[index] == pytest.approx((above - below) / 2e-6, rel=1e-3, abs=1e-5)


def windows(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Windows with a bump somewhere, and its height."""
    random = np.random.default_rng(seed)
    x = random.normal(scale=0.1, size=(count, 16, 3)).astype(np.float32)
    height = random.uniform(0, 2, size=count).astype(np.float32)
    at = random.integers(2, 13, size=count)
    for step in range(2):
        x[np.arange(count), at + step, 1] += height
    return x, height[:, None]


def test_it_learns_what_is_anywhere_in_the_window_and_the_same_each_time() -> None:
    x, height = windows(800, 0)
    nets = []
    for _ in range(2):
        net = ConvNet(16, 3, [Convolution(8, 3), Convolution(8, 3, dilation=2)], hidden=8, outputs=1)
        assert list(fit(net, x, height, Fit(epochs=15, batch=64, rate=5e-3), seed=3)) == list(range(1, 16))
        nets.append(net)
    assert all((a == b).all() for a, b in zip(nets[0].weights, nets[1].weights, strict=True))
    unseen, truth = windows(200, 1)
    assert np.sqrt(np.mean((nets[0].predict(unseen) - truth) ** 2)) < 0.3 * truth.std()


def test_classes_are_learnt() -> None:
    x, height = windows(800, 0)
    classes = (height[:, 0] > 1).astype(int)
    net = ConvNet(16, 3, [Convolution(8, 3)], hidden=8, outputs=2)
    for _ in fit(net, x, classes, Fit(loss="classes", epochs=15, batch=64, rate=5e-3), seed=0):
        pass
    unseen, truth = windows(200, 1)
    assert np.mean(net.predict(unseen).argmax(axis=1) == (truth[:, 0] > 1)) > 0.85


@pytest.mark.parametrize("average", [False, True])
def test_nets_side_by_side_give_their_mean(average: bool) -> None:
    random = np.random.default_rng(0)
    nets = [ConvNet(8, 2, [Convolution(3, 5)], hidden=4, outputs=2, average=average) for _ in range(3)]
    for net in nets:
        net.start(random)
        net.biases[0] += 0.1
        net.biases[2] += 0.3
    x = random.normal(size=(20, 8, 2)).astype(np.float32)
    wanted = np.mean([net.predict(x) for net in nets], axis=0)
    np.testing.assert_allclose(side_by_side(nets).predict(x), wanted, atol=1e-5)
    with pytest.raises(ValueError, match="one convolution"):
        side_by_side([ConvNet(8, 2, [Convolution(3, 3), Convolution(3, 3)], hidden=4, outputs=2)])


def fitted(average: bool = False) -> ConvNet:
    net = ConvNet(8, 2, [Convolution(6, 3), Convolution(5, 2, dilation=2)], hidden=7, outputs=1, average=average)
    net.start(np.random.default_rng(5))
    for bias in net.biases:
        bias += 0.1
    return net


@pytest.mark.parametrize("average", [False, True])
def test_the_graph_computes_what_numpy_computes_and_int8_stays_near(average: bool) -> None:
    random = np.random.default_rng(0)
    mean, scale = np.array([[1.0, -2.0]], np.float32), np.array([[2.0, 0.5]], np.float32)
    front = Front(mean, scale, block=4, limit=3.0, channels=(2, 0))
    nets = [fitted(average), fitted(average)]
    nets[1].weights[0] *= 0.5
    x = random.normal(scale=2, size=(300, 32, 3)).astype(np.float32)
    model = to_onnx(nets, front, 32, 3)
    wanted = run(nets, front, x)
    np.testing.assert_allclose(open_session(model).run(["output"], {"input": x})[0], wanted, atol=1e-5)
    small = quantize(model, x)
    int8 = open_session(small).run(["output"], {"input": x})[0]
    assert 0 < np.abs(int8 - wanted).max() < 0.15 * np.abs(wanted).max()
    assert b"QuantizeLinear" in small


def test_each_regime_has_its_own_usual_values_and_an_unknown_one_gives_no_score() -> None:
    random = np.random.default_rng(0)
    centers = np.array([[0.0], [10.0]], np.float32)
    regimes = Regimes((0,), centers, reach=1.0)
    mean, scale = np.array([[5.0, 0.0], [-5.0, 9.0]], np.float32), np.array([[1.0, 1.0], [2.0, 3.0]], np.float32)
    front = Front(mean, scale, block=4, limit=4.0, channels=(1, 2), regimes=regimes)
    regime = random.integers(2, size=(50, 32))
    x = np.empty((50, 32, 3), np.float32)
    x[:, :, 0] = centers[regime, 0] + random.normal(scale=0.1, size=regime.shape)
    x[:, :, 1:] = mean[regime] + scale[regime] * random.normal(size=(50, 32, 2))
    np.testing.assert_array_equal(regimes.find(x)[0], regime)
    assert abs(float(front.apply(x)[0].mean())) < 0.1
    x[7, 20, 0] = 5.0
    model = to_onnx([fitted()], front, 32, 3)
    for each in (model, quantize(model, np.delete(x, 7, axis=0))):
        output = open_session(each).run(["output"], {"input": x})[0]
        assert np.flatnonzero(np.isnan(output)).tolist() == [7]
    np.testing.assert_allclose(
        open_session(model).run(["output"], {"input": x})[0], run([fitted()], front, x), atol=1e-5
    )


def test_a_window_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        ConvNet(4, 1, [Convolution(2, 3, dilation=2)], hidden=2, outputs=1)
