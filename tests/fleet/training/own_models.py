"""Recordings of simulated machines with labels, and small models that others might have trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from wheeltapper_protocols.signal.recording import Recording, write_recording

RATE_HZ = 12_800.0
WINDOW = 512
GAIN = 20.0
"""Level of the machines: far from 1, so that samples that are not scaled as in training show it."""


def machine(kind: str, seed: int, windows: int = 40, channels: int = 1, **meta: Any) -> Recording:
    """A machine that hums; a faulty one (any kind but ``normal``) is louder and has impacts.

    With two channels, the second is at rest and only the first shows the fault.
    """
    random = np.random.default_rng(seed)
    t = np.arange(WINDOW) / RATE_HZ
    samples = random.normal(scale=0.1, size=(windows, WINDOW, channels))
    samples[:, :, 0] += np.sin(2 * np.pi * 120 * t + random.uniform(0, 6.28, (windows, 1)))
    if kind != "normal":
        hits = random.random((windows, WINDOW)) < 0.02
        samples[:, :, 0] += hits * random.normal(scale=6.0 if kind == "inner" else 3.0, size=hits.shape)
    names = ("x", "y")[:channels]
    meta = {"machine": f"{kind}-{seed}", "label": kind} | meta
    times = np.arange(0.0, windows * 10.0, 10.0)
    return Recording(
        (GAIN * samples).astype(np.float32), np.ones(channels), RATE_HZ, times, names, ("g",) * channels, meta
    )


def write_machines(folder: Path, *kinds: str, each: int = 2, first: int = 0, **more: Any) -> Path:
    """``each`` recordings of every kind; sites take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, kind in enumerate(kinds):
        for index in range(each):
            site = ("north", "south")[index % 2]
            recording = machine(kind, first + 100 * number + index, **({"site": site} | more))
            write_recording(recording, folder / f"{kind}-{index}.npz")
    return folder


def net(nodes: list[Any], given: list[Any], out: list[Any], **constants: Any) -> bytes:
    """An ONNX model: input ``x`` and output ``y`` of these shapes, unless nodes say otherwise."""
    graph = helper.make_graph(
        nodes,
        "own",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def peak_classifier(deviation: float = 1.0, batch: int | str = "n", sharp: float = 8.0) -> bytes:
    """Normal or inner by the greatest sample of a window [n, 512, 1], whose samples were divided by ``deviation``."""
    return net(
        [
            helper.make_node("Abs", ["x"], ["a"]),
            helper.make_node("ReduceMax", ["a"], ["m"], axes=[1], keepdims=0),
            helper.make_node("Gemm", ["m", "w", "b"], ["l"]),
            helper.make_node("Softmax", ["l"], ["y"], axis=1),
        ],
        [batch, WINDOW, 1],
        [batch, 2],
        w=np.array([[-sharp, sharp]], np.float32) * np.float32(deviation / GAIN),
        b=np.array([sharp * 3.0, -sharp * 3.0], np.float32),
    )


def level_score(sign: float = 1.0) -> bytes:
    """An anomaly score of a window [n, 512]: its mean square."""
    return net(
        [
            helper.make_node("Mul", ["x", "x"], ["s"]),
            helper.make_node("ReduceMean", ["s"], ["m"], axes=[1], keepdims=1),
            helper.make_node("Mul", ["m", "k"], ["y"]),
        ],
        ["n", WINDOW],
        ["n", 1],
        k=np.array([sign], np.float32),
    )


def reconstruction(low: float = -1.3, high: float = 1.3) -> bytes:
    """Reconstructs samples [n, 512, 1] up to a level, as a model that never saw impacts."""
    return net(
        [helper.make_node("Clip", ["x", "low", "high"], ["y"])],
        ["n", WINDOW, 1],
        ["n", WINDOW, 1],
        low=np.array(GAIN * low, np.float32),
        high=np.array(GAIN * high, np.float32),
    )


def life_by_level(slope: float = -400.0, start: float = 240.0) -> bytes:
    """A remaining life that falls with the root mean square of a window [n, 512, 1]."""
    return net(
        [
            helper.make_node("Mul", ["x", "x"], ["s"]),
            helper.make_node("ReduceMean", ["s"], ["m"], axes=[1], keepdims=0),
            helper.make_node("Sqrt", ["m"], ["r"]),
            helper.make_node("Mul", ["r", "k"], ["q"]),
            helper.make_node("Add", ["q", "c"], ["y"]),
        ],
        ["n", WINDOW, 1],
        ["n", 1],
        k=np.array([slope / GAIN], np.float32),
        c=np.array([start], np.float32),
    )
