"""A small one-dimensional convolution net, trained with numpy alone.

Nets of some thousand weights learn from some ten thousand windows within a minute, so that neither training nor a
computer that only trains them needs a deep-learning framework.

Invariants:
    * On one machine the same windows, targets and seed give the same weights to the bit.
    * Several processes that fit together (:mod:`crew`) take the same steps as one, up to the rounding of sums.
    * Convolutions are *valid* (no padding), so every output depends on samples of its window only.
    * Windows are float32 [window, sample, channel] throughout.

What this module does not do: standardise windows, write ONNX (:mod:`convnet_onnx`), choose the number of epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from wheeltapper_fleet.training.crew import ALONE, Crew

__all__ = ["ConvNet", "Convolution", "Fit", "fit", "side_by_side"]

Array = npt.NDArray[np.float32]
_PREDICT_ROWS: Final = 512
_BETAS: Final = (0.9, 0.999)
"""Decay of Adam's two moments. Source: Kingma and Ba, "Adam", ICLR 2015."""


@dataclass(frozen=True)
class Convolution:
    """The form of one convolution; a ReLU follows it.

    Args:
        channels: number of its outputs.
        kernel: samples that it looks at.
        dilation: samples from one that it looks at to the next.
        stride: samples from one output to the next.
    """

    channels: int
    kernel: int
    dilation: int = 1
    stride: int = 1

    def length(self, samples: int) -> int:
        """The number of outputs of so many samples."""
        return (samples - (self.kernel - 1) * self.dilation - 1) // self.stride + 1


@dataclass(frozen=True)
class Fit:
    """How a net is fitted.

    Args:
        loss: ``square`` for numbers, ``classes`` for class indices (cross-entropy of the softmax).
        epochs: passes over the windows.
        batch: windows of one step.
        rate: greatest learning rate; it falls to 0 along half a cosine.
        decay: weight decay of each step, times the rate (Loshchilov and Hutter, "Decoupled weight decay", ICLR 2019).
        noise: standard deviation of noise that is added to the windows.
    """

    loss: Literal["square", "classes"] = "square"
    epochs: int = 20
    batch: int = 128
    rate: float = 2e-3
    decay: float = 1e-2
    noise: float = 0.0


class ConvNet:
    """Convolutions, then one hidden dense layer, then a linear one.

    Args:
        samples, channels: the form of a window.
        convolutions: from input to output.
        hidden: width of the dense layer.
        outputs: width of the result.
        average: whether the mean over time of the last convolution goes into the dense layer, not each of its values.

    Raises:
        ValueError: a window is too short for the convolutions.
    """

    def __init__(
        self,
        samples: int,
        channels: int,
        convolutions: Sequence[Convolution],
        hidden: int,
        outputs: int,
        average: bool = False,
    ) -> None:
        self.convolutions = tuple(convolutions)
        self.samples, self.channels, self.average = samples, channels, average
        lengths, widths = [samples], [channels]
        for form in self.convolutions:
            lengths.append(form.length(lengths[-1]))
            widths.append(form.channels)
            if lengths[-1] < 1:
                raise ValueError(f"a window of {samples} samples is too short for the convolutions")
        flat = widths[-1] * (1 if average else lengths[-1])
        shapes = [(form.kernel * width, form.channels) for form, width in zip(self.convolutions, widths, strict=False)]
        shapes += [(flat, hidden), (hidden, outputs)]
        self.weights: list[Array] = [np.zeros(shape, np.float32) for shape in shapes]
        """[input, output] of each layer; the input of a convolution is [kernel, channel] as one row."""
        self.losses: list[float] = []
        """The mean loss of each epoch of :func:`fit`."""
        self.biases: list[Array] = [np.zeros(shape[1], np.float32) for shape in shapes]
        self._taps = [
            np.arange(length)[:, None] * form.stride + np.arange(form.kernel) * form.dilation
            for form, length in zip(self.convolutions, lengths[1:], strict=True)
        ]

    def start(self, random: np.random.Generator) -> None:
        """Draw the weights (He et al., "Delving deep into rectifiers", ICCV 2015)."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            weight[:] = random.normal(scale=np.sqrt(2.0 / len(weight)), size=weight.shape)
            bias[:] = 0
        self.weights[-1] *= np.float32(0.5)

    def predict(self, windows: Array) -> Array:
        """The net's output, float32 [window, output]."""
        parts = [self._forward(windows[i : i + _PREDICT_ROWS])[0] for i in range(0, len(windows), _PREDICT_ROWS)]
        return np.concatenate(parts)

    def _forward(self, x: Array) -> tuple[Array, list[Array]]:
        """The output, and the input of each layer as rows."""
        rows: list[Array] = []
        for number, taps in enumerate(self._taps):
            column = x[:, taps].reshape(len(x) * len(taps), -1)
            rows.append(column)
            y = column @ self.weights[number]
            y += self.biases[number]
            np.maximum(y, 0, out=y)
            x = y.reshape(len(x), len(taps), -1)
        flat: Array = x.mean(axis=1) if self.average else x.reshape(len(x), -1)
        hidden = np.maximum(flat @ self.weights[-2] + self.biases[-2], 0)
        rows += [flat, hidden]
        return hidden @ self.weights[-1] + self.biases[-1], rows

    def gradients(self, x: Array, slope: Any) -> tuple[list[Array], list[Array]]:
        """The gradient of a loss for each weight and bias.

        Args:
            x: windows.
            slope: function of the output [window, output]; gives the loss's derivative by it, of the same shape.
        """
        output, rows = self._forward(x)
        back = slope(output)
        weights: list[Array] = [rows[-1].T @ back]
        biases: list[Array] = [back.sum(axis=0)]
        back = (back @ self.weights[-1].T) * (rows[-1] > 0)
        weights.insert(0, rows[-2].T @ back)
        biases.insert(0, back.sum(axis=0))
        back = back @ self.weights[-2].T
        lengths = [self.samples, *(len(taps) for taps in self._taps)]
        if self.average:
            back = np.repeat(back[:, None, :], lengths[-1], axis=1) / np.float32(lengths[-1])
        for number in range(len(self._taps) - 1, -1, -1):
            form, taps = self.convolutions[number], self._taps[number]
            back = back.reshape(len(x) * len(taps), form.channels)
            active = rows[number] @ self.weights[number] + self.biases[number] > 0
            back = back * active
            weights.insert(0, rows[number].T @ back)
            biases.insert(0, back.sum(axis=0))
            if number:
                column = (back @ self.weights[number].T).reshape(len(x), len(taps), form.kernel, -1)
                spread = np.zeros((len(x), lengths[number], column.shape[3]), np.float32)
                for tap in range(form.kernel):
                    first = tap * form.dilation
                    spread[:, first : first + form.stride * len(taps) : form.stride][:, : len(taps)] += column[
                        :, :, tap
                    ]
                back = spread
        return weights, biases


def side_by_side(nets: Sequence[ConvNet]) -> ConvNet:
    """One net that gives the mean output of nets of one form with one convolution: fewer, wider layers, which a device
    runs faster.

    Raises:
        ValueError: a net has another number of convolutions.
    """
    first, count = nets[0], len(nets)
    if any(len(net.convolutions) != 1 for net in nets):
        raise ValueError("only nets with one convolution can be put side by side")
    form, width, hidden = first.convolutions[0], first.convolutions[0].channels, len(first.biases[-2])
    wide = Convolution(count * width, form.kernel, form.dilation, form.stride)
    made = ConvNet(first.samples, first.channels, [wide], count * hidden, len(first.biases[-1]), first.average)
    made.weights[0][:] = np.concatenate([net.weights[0] for net in nets], axis=1)
    made.biases[0][:] = np.concatenate([net.biases[0] for net in nets])
    length = len(first.weights[1]) // width
    dense = made.weights[1].reshape(length, count, width, count, hidden)
    for number, net in enumerate(nets):
        dense[:, number, :, number, :] = net.weights[1].reshape(length, width, hidden)
    made.biases[1][:] = np.concatenate([net.biases[1] for net in nets])
    made.weights[2][:] = np.concatenate([net.weights[2] for net in nets]) / np.float32(count)
    made.biases[2][:] = np.mean([net.biases[2] for net in nets], axis=0)
    return made


def fit(
    net: ConvNet, windows: Array, targets: npt.NDArray[Any], how: Fit, seed: int, crew: Crew = ALONE
) -> Iterator[int]:
    """Fit a net, from fresh weights.

    Args:
        net: is changed.
        windows: [window, sample, channel].
        targets: [window, output] float32, or [window] class indices.
        how: loss and steps.
        seed: of weights, order and noise.
        crew: the processes that fit this net; all of them call this with the same values.

    Yields:
        The number of epochs that are over, after each, so that the caller can show progress or stop.
    """
    random = np.random.default_rng(seed)
    net.start(random)
    net.losses = []
    values = [*net.weights, *net.biases]
    moments = [(np.zeros_like(value), np.zeros_like(value)) for value in values]
    steps, step = how.epochs * max(1, len(windows) // how.batch), 0
    for epoch in range(how.epochs):
        order = random.permutation(len(windows))
        losses: list[float] = []
        with threadpool_limits(1):
            for first in range(0, max(1, len(order) - how.batch + 1), how.batch):
                picked = order[first : first + how.batch]
                x = windows[picked]
                if how.noise:
                    x = x + random.normal(scale=how.noise, size=x.shape).astype(np.float32)
                slopes, loss = _gradient(net, x, targets[picked], how.loss, crew)
                losses.append(loss)
                step += 1
                rate = how.rate * (0.5 + 0.5 * np.cos(np.pi * min(1.0, step / steps)))
                _adam(values, slopes, moments, step, rate, how.decay, len(net.weights))
        net.losses.append(float(np.mean(losses)))
        yield epoch + 1


def _gradient(net: ConvNet, x: Array, target: npt.NDArray[Any], loss: str, crew: Crew) -> tuple[list[Array], float]:
    """The gradient of a batch's mean loss for each weight and each bias, and the loss; the crew shares the work."""
    edges = np.linspace(0, len(x), crew.size + 1).astype(int)
    mine = slice(int(edges[crew.rank]), int(edges[crew.rank + 1]))
    losses: list[float] = []
    if mine.start < mine.stop:
        weights, biases = net.gradients(x[mine], _slope(loss, target[mine], losses, len(x)))
        slopes = [*weights, *biases]
    else:
        slopes, losses = [np.zeros_like(each) for each in (*net.weights, *net.biases)], [0.0]
    if crew.size == 1:
        return slopes, losses[0]
    *slopes, total = crew.sum([*slopes, np.array(losses, dtype=np.float32)])
    return slopes, float(total[0])


def _slope(loss: str, target: npt.NDArray[Any], losses: list[float], batch: int) -> Any:
    """The derivative of a loss by the output, as :meth:`ConvNet.gradients` takes it; the loss goes to ``losses``. Both
    are the share of these windows in a batch of so many."""
    share = len(target) / batch

    def square(output: Array) -> Array:
        losses.append(share * float(np.mean((output - target) ** 2)))
        return np.asarray((output - target) * np.float32(2.0 / batch))

    def classes(output: Array) -> Array:
        power = np.exp(output - output.max(axis=1, keepdims=True))
        power /= power.sum(axis=1, keepdims=True)
        likely = np.maximum(power[np.arange(len(target)), target], 1e-12)
        losses.append(share * -float(np.log(likely).mean()))
        power[np.arange(len(target)), target] -= 1
        return np.asarray(power / np.float32(batch))

    return square if loss == "square" else classes


def _adam(
    values: list[Array], slopes: list[Array], moments: list[tuple[Array, Array]], step: int, rate: float, decay: float,
    decayed: int,
) -> None:  # fmt: skip
    """One step of Adam; the first ``decayed`` values decay."""
    first_correction, second_correction = (1 - beta**step for beta in _BETAS)
    for number, (value, slope, (first, second)) in enumerate(zip(values, slopes, moments, strict=True)):
        first += (1 - _BETAS[0]) * (slope - first)
        second += (1 - _BETAS[1]) * (slope * slope - second)
        if number < decayed:
            value *= np.float32(1 - rate * decay)
        value -= np.float32(rate / first_correction) * first / (np.sqrt(second / second_correction) + np.float32(1e-8))
