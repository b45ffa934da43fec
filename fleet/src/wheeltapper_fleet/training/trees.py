"""Gradient-boosted trees of scikit-learn as one node of an ONNX graph.

ONNX Runtime walks a hundred small trees in some microseconds. Trees have no multiplications: 8 bits would gain nothing,
so thresholds and leaves stay float32.

Invariants:
    * The node gives what the fitted model's ``decision_function`` or ``predict`` gives, up to the rounding of float32.
    * The same rows, targets and seed give the same trees.

Source of the node: ONNX operators, ``ai.onnx.ml.TreeEnsembleRegressor`` version 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

from wheeltapper_fleet.training.onnx_graph import Graph

__all__ = ["NO_TREES", "Growth", "Trees", "add_trees", "grow_classes", "grow_numbers"]

Array = npt.NDArray[np.float32]
NO_TREES: Final = "no TFLite file: trees take part in this model, and TFLite has no operator for them"
"""What a manifest and a warning say; ``model = "nets"`` is for boards without ONNX Runtime."""
_LEAST_ROWS: Final = 5
"""Of a leaf, however few rows there are."""


@dataclass(frozen=True)
class Growth:
    """How trees are grown.

    Args:
        trees: how many, of each output.
        rate: share of what is left that each tree takes away.
        leaves: of a tree, at most.
        leaf_share: least share of the rows in a leaf.
    """

    trees: int = 80
    rate: float = 0.1
    leaves: int = 8
    leaf_share: float = 0.004


@dataclass(frozen=True)
class Trees:
    """A fitted model, the number of its outputs, and what they are multiplied by."""

    model: Any
    outputs: int
    factor: float = 1.0

    def predict(self, rows: Array) -> npt.NDArray[np.float64]:
        """The model's output [row, output]: numbers, or logits of classes."""
        with threadpool_limits(1):
            if isinstance(self.model, HistGradientBoostingRegressor):
                return np.asarray(self.factor * self.model.predict(rows)[:, None])
            given = self.factor * np.asarray(self.model.decision_function(rows))
        return np.stack([-given / 2, given / 2], axis=1) if given.ndim == 1 else given


def grow_numbers(rows: Array, targets: npt.NDArray[Any], how: Growth, seed: int) -> Trees:
    """Trees that give a number for each of ``rows`` [row, value]."""
    model = HistGradientBoostingRegressor(**_settings(len(rows), how, seed))
    with threadpool_limits(1):
        model.fit(rows, targets)
    return Trees(model, 1)


def grow_classes(rows: Array, classes: npt.NDArray[Any], how: Growth, seed: int) -> Trees:
    """Trees that give logits of classes 0, 1, … for each of ``rows``; every class is there, and counts alike."""
    model = HistGradientBoostingClassifier(class_weight="balanced", **_settings(len(rows), how, seed))
    with threadpool_limits(1):
        model.fit(rows, classes)
    return Trees(model, len(model.classes_))


def _settings(rows: int, how: Growth, seed: int) -> dict[str, Any]:
    return {
        "max_iter": how.trees, "learning_rate": how.rate, "max_leaf_nodes": how.leaves, "l2_regularization": 1.0,
        "min_samples_leaf": max(_LEAST_ROWS, round(how.leaf_share * rows)), "early_stopping": False,
        "random_state": seed,
    }  # fmt: skip


def add_trees(graph: Graph, trees: Trees, value: str, name: str) -> str:
    """Add a node that gives [row, output] for ``value`` [row, value]; returns the name of its output.

    ``nodes_hitrates`` and ``nodes_missing_value_tracks_true``, a third of the bytes, are left out: windows with missing
    values never reach a model.
    """
    nodes: dict[str, list[Any]] = {each: [] for each in ("treeids", "nodeids", "featureids", "values", "modes")}
    nodes |= {"truenodeids": [], "falsenodeids": []}
    leaves: dict[str, list[Any]] = {each: [] for each in ("treeids", "nodeids", "ids", "weights")}
    tree = 0
    for stage in trees.model._predictors:  # scikit-learn has no public way to a fitted tree's nodes
        for output, predictor in enumerate(stage):
            for number, node in enumerate(predictor.nodes):
                leaf = bool(node["is_leaf"])
                nodes["treeids"].append(tree)
                nodes["nodeids"].append(number)
                nodes["featureids"].append(0 if leaf else int(node["feature_idx"]))
                nodes["values"].append(0.0 if leaf else float(node["num_threshold"]))
                nodes["modes"].append("LEAF" if leaf else "BRANCH_LEQ")
                nodes["truenodeids"].append(0 if leaf else int(node["left"]))
                nodes["falsenodeids"].append(0 if leaf else int(node["right"]))
                if leaf:
                    leaves["treeids"].append(tree)
                    leaves["nodeids"].append(number)
                    leaves["ids"].append(output)
                    leaves["weights"].append(trees.factor * float(node["value"]))
            tree += 1
    base = (trees.factor * np.ravel(trees.model._baseline_prediction)).tolist()
    attributes = {f"nodes_{key}": given for key, given in nodes.items()}
    attributes |= {f"target_{key}": given for key, given in leaves.items()}
    one = trees.outputs == 2 and len(base) == 1
    grown = f"{name}_grown" if one else name
    graph.add(
        "TreeEnsembleRegressor", [value], grown, domain="ai.onnx.ml", n_targets=len(base), base_values=base,
        **attributes,
    )  # fmt: skip
    if one:  # of two classes scikit-learn grows the trees of one
        graph.constant(f"{name}_halves", [-0.5, 0.5])
        graph.add("Mul", [grown, f"{name}_halves"], name)
    return name
