"""What a model's file says of its inputs and outputs. Pure."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ModelGraph", "ModelTensor"]


@dataclass(frozen=True, slots=True)
class ModelTensor:
    """An input or an output of a model."""

    name: str
    dtype: str
    """Numpy's name of the element type; another word (``string``, ``sequence``, …) where it is no tensor of numbers."""
    shape: tuple[int | None, ...] = ()
    """None: the axis may have any length."""
    scale: float = 0.0
    """0: the file states no scale."""
    zero_point: int = 0
    index: int = 0
    """Of the tensor in its TFLite subgraph; 0 in ONNX, where names are enough."""
    alias: str = ""
    """The name that a TFLite signature gives the tensor; empty: none."""

    def called(self, name: str) -> bool:
        """Return whether ``name`` is one of the tensor's names."""
        return name in (self.name, self.alias) and bool(name)

    @property
    def label(self) -> str:
        """The name for people: that of the signature, where there is one."""
        return self.alias or self.name


@dataclass(frozen=True, slots=True)
class ModelGraph:
    """The inputs and outputs of a model's file, or of one of its signatures, in the order of the file."""

    inputs: tuple[ModelTensor, ...]
    outputs: tuple[ModelTensor, ...]
    signature: str = ""
    """Key of the TFLite signature; empty: there is none."""
    subgraph: int = 0
    """Index of the TFLite subgraph that is run; 0: the main one."""
