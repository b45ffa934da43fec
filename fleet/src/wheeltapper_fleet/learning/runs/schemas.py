"""Runs as the API takes them and gives them out. Pure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from wheeltapper_fleet.ground.body import CLOSED, NO_NUL, Whole

__all__ = [
    "ClaimRequest",
    "ClaimView",
    "FinishRequest",
    "ProgressRequest",
    "RunDetail",
    "RunFile",
    "RunRequest",
    "RunView",
    "StateName",
]

StateName = Literal["QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
Attempt = Annotated[int, Field(ge=1, le=1_000_000), Whole]
Sha256Text = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Key = Annotated[str, StringConstraints(pattern=r"^[^\x00]{1,100}$")]
"""A name that a recipe gave, such as a gate's with a class in it."""
PlotName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
RecipeName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Number = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
Line = Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)]
Words = Annotated[str, StringConstraints(max_length=2000, pattern=NO_NUL)]
Named = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[ -~]{1,128}$")]


class RunRequest(BaseModel):
    """Queue a run of a recipe file (TOML) that names a dataset; ``seed`` and ``against`` count more than the file's.

    ``against``: an alias or the number of a release of the model that the bundle must not be worse than.
    """

    model_config = CLOSED
    recipe: Annotated[str, StringConstraints(min_length=1, max_length=65_536, pattern=NO_NUL)]
    seed: Annotated[int, Field(ge=0, le=2**32 - 1), Whole] | None = None
    against: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] | None = None


class ClaimRequest(BaseModel):
    """A trainer asks for work: its name, and the recipes that it has; left out: any."""

    model_config = CLOSED
    trainer: Named
    recipes: Annotated[list[RecipeName], Field(max_length=200)] | None = None


class ProgressRequest(BaseModel):
    """How far an execution is: ``progress`` from 0 to 1, where that is known, and in words."""

    model_config = CLOSED
    attempt: Attempt
    progress: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    text: Line


class Trial(BaseModel):
    """One trial of a search: its parameters, each as JSON, and what it reached."""

    model_config = CLOSED
    number: Annotated[int, Field(ge=0, le=100_000), Whole]
    state: Literal["complete", "pruned", "failed"]
    value: Number | None
    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    parameters: dict[Key, Line]
    detail: Line = ""


class FinishRequest(BaseModel):
    """How an execution ended; ``QUEUED`` gives the run back, because the trainer stops."""

    model_config = CLOSED
    attempt: Attempt
    state: Literal["SUCCEEDED", "FAILED", "QUEUED"]
    result: Sha256Text | None = None
    metrics: Annotated[dict[Key, Number], Field(max_length=500)] = {}
    digests: Annotated[dict[Key, Sha256Text], Field(max_length=20)] = {}
    parameters: Annotated[dict[Key, Words], Field(max_length=100)] = {}
    plots: Annotated[dict[PlotName, Sha256Text], Field(max_length=20)] = {}
    warnings: Annotated[list[Words], Field(max_length=50)] = []
    trials: Annotated[list[Trial], Field(max_length=500)] = []
    error_code: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$", max_length=64)] | None = (
        None
    )
    error_detail: Words | None = None


class RunFile(BaseModel):
    """A file that was stored for a run."""

    sha256: str
    length: int


class RunView(BaseModel):
    """A run. Times are Unix seconds.

    ``state`` is QUEUED, RUNNING, SUCCEEDED, FAILED or CANCELLED. ``cause_kind`` is ``person``, ``policy`` or
    ``search``, and ``cause_id`` says which. ``attempt`` counts the trainers that took it. ``progress`` is from 0 to 1,
    and None where it is not known. ``result`` is the SHA-256 of the manifest of the bundle that it made. ``against`` is
    the release that it must not be worse than.
    """

    id: str
    state: str
    model: str
    recipe: str
    dataset: str
    seed: int
    against: int | None
    cause_kind: str
    cause_id: str
    requested_at: float
    requested_by: str
    started_at: float | None
    ended_at: float | None
    ended_by: str | None
    heartbeat_at: float | None
    trainer: str | None
    attempt: int
    progress: float | None
    progress_text: str
    result: str | None
    error_code: str | None
    error_detail: str | None


class RunDetail(RunView):
    """A run with everything that is recorded of it.

    ``parameters`` are the recipe's, each as JSON; ``metrics`` numbers by name, those of the gates included; ``gates``
    as in the bundle's manifest; ``digests`` SHA-256 of data, code, environment, recipe and model; ``plots`` the
    SHA-256 of each plot by name; ``trials`` those of a search.
    """

    recipe_toml: str
    parameters: dict[str, Any]
    metrics: dict[str, Any]
    gates: list[dict[str, Any]]
    digests: dict[str, str]
    plots: dict[str, str]
    warnings: list[str]
    trials: list[dict[str, Any]]


class ClaimView(BaseModel):
    """What a trainer is to do: the run, and where the service keeps datasets; both None: nothing."""

    run: RunDetail | None
    datasets_url: str | None
