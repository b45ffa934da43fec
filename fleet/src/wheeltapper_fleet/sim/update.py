"""An execution on a simulated device: its states in their order, and how long each lasts. Pure.

The states are those of an agent (docs/architecture.md). What the work of a state is, is not simulated: no file is
fetched and no model runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from wheeltapper_fleet.sim.draws import draw
from wheeltapper_protocols.wire.assignment import ExecutionOrder, PipelineTarget
from wheeltapper_protocols.wire.messages import ExecutionState

__all__ = ["STEPS", "Execution", "step_seconds"]

STEPS: Final = (
    ExecutionState.ASSIGNED,
    ExecutionState.FETCHING,
    ExecutionState.VERIFYING,
    ExecutionState.STAGED,
    ExecutionState.SELF_TEST,
    ExecutionState.SHADOW,
    ExecutionState.ACTIVATING,
    ExecutionState.PROBATION,
)
_SHARES: Final = dict(zip(STEPS, (0.02, 0.30, 0.03, 0.02, 0.13, 0.20, 0.05, 0.25), strict=True))


@dataclass(slots=True)
class Execution:
    """One execution that a device carries out.

    Args:
        order: what the assignment says.
        targets: by pipeline, what it brings.
        state: the newest one; None: not begun.
        until: Unix time at which the state's work is done.
        killed: whether the fault ``kill`` has come.
        before: by pipeline, the model and release that ran until it was activated.
    """

    order: ExecutionOrder
    targets: dict[str, PipelineTarget]
    state: ExecutionState | None = None
    until: float = 0.0
    killed: bool = False
    before: dict[str, tuple[str, int] | None] = field(default_factory=dict)

    @property
    def release(self) -> int:
        """The number of the release that it brings."""
        return next(iter(self.targets.values())).release

    @property
    def activated(self) -> bool:
        """Whether the release runs already."""
        return self.state in (ExecutionState.ACTIVATING, ExecutionState.PROBATION)

    def following(self, *, shadow: bool) -> ExecutionState:
        """The state after this one where nothing goes wrong; ``shadow``: there is a release to compare with."""
        if self.state is None:
            return STEPS[0]
        if self.state is STEPS[-1]:
            return ExecutionState.COMMITTED
        after = STEPS[STEPS.index(self.state) + 1]
        return ExecutionState.ACTIVATING if after is ExecutionState.SHADOW and not shadow else after


def step_seconds(seed: int, device: str, execution: str, state: ExecutionState, update_seconds: float) -> float:
    """How long the work of ``state`` lasts: its share of ``update_seconds``, half to one and a half of it."""
    return update_seconds * _SHARES[state] * (0.5 + draw(seed, device, execution, state))
