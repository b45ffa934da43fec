"""Captures as a source of a dataset: each with its machine, and with the labels of cases whose time it shares."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

from wheeltapper_fleet.learning.datasets.importing import Incoming
from wheeltapper_fleet.learning.datasets.manifest import Label
from wheeltapper_fleet.learning.datasets.store import DatasetStore
from wheeltapper_fleet.learning.datasets.table import DataTable
from wheeltapper_fleet.learning.schemas import CaptureForDataset, CaptureLabel
from wheeltapper_protocols.signal.recording import Recording, read_recording

__all__ = ["coming_captures"]


def coming_captures(
    store: DatasetStore, captures: Iterable[CaptureForDataset], fetch: Callable[[str], Recording]
) -> Iterator[Incoming]:
    """What captures give. One whose content is in the store already is not fetched again.

    Args:
        store: where the dataset is kept.
        captures: as :func:`~wheeltapper_fleet.learning.captures.list_captures` gives them.
        fetch: gives the recording that a command answered, by the command's id.
    """
    for capture in captures:
        yield Incoming(
            read=functools.partial(_read, store, capture, fetch),
            machine=capture.machine,
            source=f"capture {capture.command} of {capture.device}/{capture.pipeline}",
            condition={"site": capture.site} if capture.site else {},
            relabel=functools.partial(_labels, capture.labels),
        )


def _read(store: DatasetStore, capture: CaptureForDataset, fetch: Callable[[str], Recording]) -> Recording:
    if store.has(capture.sha256, capture.length):
        with store.content(capture.sha256) as file:
            return read_recording(file)
    return fetch(capture.command)


def _labels(known: list[CaptureLabel], content: Recording | DataTable) -> list[Label]:
    """The labels whose time overlaps with that of a recording."""
    assert isinstance(content, Recording)
    begins = float(content.t_s[0])
    ends = float(content.t_s[-1]) + content.window_samples / content.sample_rate_hz
    found = []
    for label in known:
        if label.from_t_s <= ends and label.to_t_s >= begins:
            said = {"start": label.from_t_s, "stop": label.to_t_s, "source": f"case {label.case}"}
            found.append(Label(name="verdict", value=label.verdict, **said))  # type: ignore[arg-type]
            if label.part:
                found.append(Label(name="part", value=label.part, **said))  # type: ignore[arg-type]
    return found
