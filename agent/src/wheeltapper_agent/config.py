"""The agent's configuration: frozen dataclasses, one loader, an unknown key is an error.

A configuration is TOML: ``[device]``, ``[delivery]``, ``[update]``, ``[capture]`` and ``[[pipelines]]``. The profile
of the board comes from
``firmware_configs/profiles/<name>.toml``. No globals, no environment.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
import zoneinfo
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from wheeltapper_agent.core.conditions import Conditions, parse_window
from wheeltapper_agent.core.probation import Rules
from wheeltapper_agent.errors import AgentError
from wheeltapper_agent.plugins import known_kinds, source_kind
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.ids import name as check_name
from wheeltapper_protocols.quality import STUCK_SAMPLES

__all__ = [
    "AgentConfig",
    "CaptureConfig",
    "CaptureRule",
    "DeliveryConfig",
    "DeviceConfig",
    "PipelineConfig",
    "Profile",
    "QualityConfig",
    "ReplayConfig",
    "SimulatorConfig",
    "UpdateConfig",
    "firmware_configs",
    "load_config",
    "load_profile",
    "profile_names",
]

_T = TypeVar("_T")
_MAX_NUMBER: Final = 1e300
"""Beyond it a number of a configuration is a slip; so are ``inf`` and ``nan``."""
_MAX_GATHER_SECONDS: Final = 10.0
_MAX_SIMULATED_SAMPLES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """Where the device keeps its state, and on which board it runs."""

    state_dir: Path
    profile: str = "x86-gateway"
    status_seconds: float = 30.0
    """How often the retained status is repeated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """How records are sent."""

    batch_seconds: float = 5.0
    """How long telemetry is gathered for one message; alerts and reports never wait."""
    resend_seconds: float = 5.0
    max_in_flight: int = 2000
    catch_up_records_per_second: float = 2000.0
    """At most so many records a second, but for alerts and reports made while connected; must be more than the
    pipelines make. 0: without a bound."""
    reconnect_max_seconds: float = 10.0
    flush_seconds: float = 5.0
    """How long a clean end waits for the fleet's ack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """How releases are taken: when, how fast, and what a new one must show."""

    maintenance_windows: tuple[str, ...] = ()
    """E.g. ``Mon-Fri 22:00-05:00``; none: at any time."""
    timezone: str = "UTC"
    """Of the windows, as in the IANA data base; ``local``: what the system is set to."""
    require_mains: bool = False
    power_supply_dir: Path = Path("/sys/class/power_supply")
    metered_interfaces: tuple[str, ...] = ()
    """Interfaces over which nothing is fetched, e.g. ``wwan*``."""
    route_file: Path = Path("/proc/net/route")
    disk_reserve_mb: float = 16.0
    """What must stay free."""
    condition_seconds: float = 5.0
    """How often the conditions are looked at."""
    deadline_seconds: float = 7 * 86400.0
    """From the assignment to the activation; 0: no limit."""
    fetch_attempts: int = 5
    """In a row without a byte of progress."""
    fetch_retry_seconds: float = 1.0
    fetch_bytes_per_second: float = 0.0
    """0: as fast as it goes."""
    fetch_least_bytes_per_second: float = 100.0
    """A server that sends less, over a minute, is left; 0: not asked."""
    metadata_retry_seconds: float = 2.0
    metadata_timeout_seconds: float = 300.0
    """For the metadata of one look at the repository; 0: no limit."""
    http_timeout_seconds: float = 20.0
    """For connecting, for the head of an answer, and for each piece of it."""
    self_test_timeout_seconds: float = 120.0
    """For a release's first load and self-test, which happen in a child process."""
    shadow_windows: int = 3
    """Windows that a new release scores beside the active one; 0: no shadow run."""
    shadow_timeout_seconds: float = 30.0
    shadow_min_agreement: float = 0.0
    """Least share of windows of which both decide the same; 0: it is only reported."""
    shadow_max_load: float = 8.0
    """Load average a core above which windows are left out."""
    probation_windows: int = 3
    probation_timeout_seconds: float = 120.0
    probation_max_deaths: int = 3
    """Times that the process may end uncleanly in probation."""
    probation_max_shift: float = 8.0
    """Of the median score, in robust standard deviations of the old release's; 0: not judged."""
    probation_alert_alpha: float = 0.001
    """How seldom chance alone may look like more alerts; 0: not judged."""
    probation_latency_ratio: float = 5.0
    """Median against the old release's, from 20 calls on; 0: not judged."""

    def __post_init__(self) -> None:
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float | int) and not (math.isfinite(value) and value >= 0):
                raise AgentError("config.invalid", f"update.{entry.name} cannot be {value!r}; 0 or more is meant")
        self.conditions()

    def conditions(self) -> Conditions:
        """When an update may go on.

        Raises:
            AgentError: ``config.invalid``: a window or the time zone cannot be read.
        """
        try:
            windows = tuple(parse_window(text) for text in self.maintenance_windows)
        except ValueError as error:
            raise AgentError("config.invalid", f"update.maintenance_windows: {error}") from error
        reserve_bytes = int(self.disk_reserve_mb * 1024 * 1024)
        return Conditions(windows, self._zone(), self.require_mains, bool(self.metered_interfaces), reserve_bytes)

    def rules(self) -> Rules:
        """What probation asks."""
        return Rules(
            max_shift=self.probation_max_shift,
            alert_alpha=self.probation_alert_alpha,
            latency_ratio=self.probation_latency_ratio,
        )

    def _zone(self) -> tzinfo | None:
        if self.timezone in ("UTC", "local"):  # neither needs the data base, which small systems lack
            return UTC if self.timezone == "UTC" else None
        try:
            return zoneinfo.ZoneInfo(self.timezone)
        except (OSError, ValueError, KeyError) as error:  # ZoneInfoNotFoundError is a KeyError
            text = f"there is no time zone {self.timezone[:80]!r} here; install tzdata, or use UTC or local"
            raise AgentError("config.invalid", f"update.timezone: {text}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorConfig:
    """A simulated bearing; see :mod:`wheeltapper_agent.adapters.simulator`. Times are of the machine, in seconds."""

    kind: Literal["simulator"] = "simulator"
    seed: int = 1
    sample_rate_hz: float = 12800.0
    window_samples: int = 4096
    interval_seconds: float = 60.0
    """Machine time between the starts of two windows."""
    time_scale: float = 60.0
    """Machine seconds a second of the wall clock."""
    started_at: float | None = None
    """Unix time of machine time 0; None: the first start, remembered in the state folder."""
    shaft_hz: float = 29.17
    fault: Literal["none", "outer", "inner", "ball"] = "none"
    onset_seconds: float = 0.0
    failure_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (
            ("sample_rate_hz", 1e7), ("interval_seconds", 1e9), ("time_scale", 1e6), ("shaft_hz", 1e4),
        ):  # fmt: skip
            if not 0 < getattr(self, name) <= most:
                raise AgentError("config.invalid", f"{name} of a simulator must be above 0 and at most {most:g}")
        if not 0 < self.window_samples <= _MAX_SIMULATED_SAMPLES or self.seed < 0:
            text = f"window_samples must be from 1 to {_MAX_SIMULATED_SAMPLES}, and seed not below 0"
            raise AgentError("config.invalid", f"of a simulator, {text}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """A recording played once: see :mod:`wheeltapper_agent.adapters.sources.replay`.

    What a file says of itself (all of it in ``.npz``; rate and channels in ``.wav``; channels in tables) need not be
    said here; where both do, they must agree.
    """

    kind: Literal["replay"] = "replay"
    path: Path
    format: Literal["auto", "npz", "wav", "csv", "parquet"] = "auto"
    """``auto``: by the ending of the name."""
    rate_hz: float = 1.0
    """Windows a second of the wall clock."""
    hold_until_model: bool = False
    """Wait for the first active model."""
    window_samples: int = 0
    """0: a snapshot of an ``.npz`` is a window; the other formats need it."""
    hop_samples: int = 0
    """From window to window; 0: as ``window_samples``."""
    sample_rate_hz: float = 0.0
    channels: tuple[str, ...] = ()
    """Of a table: its columns, in this order. Of a ``.wav``: names for its channels."""
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    """Physical value = number in the file * scale, a channel. A ``.wav``'s numbers are from -1 to 1."""
    full_scale: tuple[float, ...] = ()
    """Largest absolute physical value that the sensor can give, a channel."""
    time_column: str = ""
    """Of a table: the column with the time of each row, in seconds (in Parquet also a time stamp)."""
    tolerance_seconds: float = 0.0
    """How far such a time may be off before samples count as missing; 0: half a sample."""
    delimiter: str = ","
    """Of a ``.csv``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """What counts as bad data."""

    stuck_samples: int = STUCK_SAMPLES
    """Length from which a run of equal values is a stuck sensor; 0: never."""
    late_seconds: float = 5.0
    """How much later than the quickest a window may come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig:
    """One sensor stream. ``source`` is the configuration of its kind: see :mod:`wheeltapper_agent.plugins`."""

    name: str
    source: Any
    quality: QualityConfig = field(default_factory=QualityConfig)
    gather_seconds: float = 0.5
    """How long windows that come fast may wait to be scored together, which costs less than waking up for each; 0: each
    is scored at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.gather_seconds <= _MAX_GATHER_SECONDS:
            raise AgentError(
                "config.invalid", f"gather_seconds of {self.name} must be from 0 to {_MAX_GATHER_SECONDS:g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRule:
    """What is recorded of a pipeline without being asked for."""

    pipeline: str
    """Its name, or ``*`` for those that no other rule names."""
    on_alert: bool = False
    on_drift: bool = False
    before_windows: int = 8
    after_windows: int = 8
    """Around the window of the alert or the drift."""
    pause_seconds: float = 600.0
    """After a recording; triggers until then are ignored."""
    random_share: float = 0.0
    """Of all windows, 0 to 1."""
    random_windows: int = 8
    """So many random windows make one recording."""
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("before_windows", "after_windows", "pause_seconds"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise AgentError("config.invalid", f"capture.rules: {name} must be 0 to 1000000")
        if not 0 <= self.random_share <= 1 or not 1 <= self.random_windows <= 10_000:
            raise AgentError("config.invalid", "capture.rules: random_share is 0 to 1, random_windows 1 to 10000")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureConfig:
    """Recordings by rule, and how much of the uplink all recordings may take."""

    bytes_per_second: float = 262_144.0
    """0: without a bound."""
    max_mb_per_day: float = 256.0
    """Of recordings by rule; 0: without a bound."""
    piece_kb: int = 256
    rules: tuple[CaptureRule, ...] = ()

    def rule_for(self, pipeline: str) -> CaptureRule | None:
        """The rule of ``pipeline``."""
        by_name = {rule.pipeline: rule for rule in self.rules}
        return by_name.get(pipeline) or by_name.get("*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a board offers; the keys of ``firmware_configs/profile.schema.json``."""

    name: str
    description: str = ""
    arch: tuple[str, ...] = ()
    """Machine names of the system (``uname -m``) that the profile is for; empty: any."""
    runtimes: tuple[str, ...] = ("onnxruntime", "ai-edge-litert", "tflite-runtime")
    """In order of preference."""
    providers: tuple[str, ...] = ("CPUExecutionProvider", "XNNPACK")
    """In order of preference, of all runtimes together; each takes those that it knows: an execution provider of ONNX
    Runtime, ``XNNPACK``, or ``delegate:<path>`` of a TFLite delegate."""
    threads: int = 1
    memory_cap_mb: int = 512
    cpu_quota_percent: int = 100
    """100 is one core."""
    spool_max_records: int = 1_000_000
    spool_max_mb: int = 512
    spool_max_days: float = 30.0
    spool_commit_seconds: float = 1.0
    """How long telemetry waits in memory for the next commit, which spares flash; alerts and reports never wait."""
    batch_records: int = 200
    capture_max_mb: int = 64
    buses: tuple[str, ...] = ()
    """Device nodes that the service may open for its sensors, and CAN interfaces (``can0``)."""
    accelerator_devices: tuple[str, ...] = ()
    """Device nodes of GPU or NPU that the providers open."""
    watchdog_device: str = ""
    """The hardware watchdog that systemd may feed; empty: there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Everything."""

    device: DeviceConfig
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    capture: CaptureConfig = field(default_factory=CaptureConfig)
    pipelines: tuple[PipelineConfig, ...] = ()


def _value(hint: Any, value: Any, where: str, base: Path) -> Any:
    """``value`` as ``hint``, or an error that names ``where``."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        if value in options:
            return value
    elif hint is Path:
        if isinstance(value, str) and value:
            return base / value
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER:
            return float(value)
    elif hint in (str, bool, int):
        if type(value) is hint:
            return value
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where, base)
    elif type(None) in options:
        return _value(options[0], value, where, base)
    elif typing.get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(options[0], entry, f"{where}[{index}]", base) for index, entry in enumerate(value))
    raise AgentError("config.invalid", f"{where} cannot be {value!r}; expected {hint}")


def _build(kind: type[_T], table: Any, where: str, base: Path, **ready: Any) -> _T:
    """An instance of the dataclass ``kind`` from a TOML table."""
    if not isinstance(table, dict):
        raise AgentError("config.invalid", f"{where} must be a table")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(table) - set(hints))
    if unknown:
        raise AgentError(
            "config.unknown_key", f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(hints))}"
        )
    values = {
        key: _value(hints[key], value, f"{where}.{key}", base) for key, value in table.items() if key not in ready
    }
    try:
        return kind(**values, **ready)
    except TypeError as error:
        fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # kind is a dataclass
        required = [entry.name for entry in fields if entry.default is entry.default_factory is dataclasses.MISSING]
        raise AgentError("config.missing_key", f"{where} needs {', '.join(required)}") from error


def _pipeline(table: Any, index: int, base: Path) -> PipelineConfig:
    where = f"pipelines[{index}]"
    source = table.get("source") if isinstance(table, dict) else None
    if not isinstance(source, dict) or "kind" not in source:
        raise AgentError("config.invalid", f"{where}.source.kind must be one of {', '.join(known_kinds())}")
    config = source_kind(source["kind"]).config
    pipeline = _build(PipelineConfig, table, where, base, source=_build(config, source, f"{where}.source", base))
    try:
        check_name(pipeline.name, "pipeline name")
    except WireError as error:
        raise AgentError("config.invalid", f"{where}.name: {error.message}") from error
    return pipeline


def _capture(table: Any, base: Path) -> CaptureConfig:
    rules = table.get("rules", []) if isinstance(table, dict) else []
    if not isinstance(rules, list):
        raise AgentError("config.invalid", "capture.rules must be an array of tables: [[capture.rules]]")
    made = tuple(_build(CaptureRule, rule, f"capture.rules[{index}]", base) for index, rule in enumerate(rules))
    if len({rule.pipeline for rule in made}) != len(made):
        raise AgentError("config.invalid", "two capture.rules are for the same pipeline")
    return _build(CaptureConfig, table, "capture", base, rules=made)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AgentError("config.unreadable", f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AgentError("config.malformed", f"{path} is not TOML: {error}") from error


def load_config(path: Path) -> AgentConfig:
    """Read a configuration; relative paths in it are relative to its folder.

    Raises:
        AgentError: ``config.unreadable``, ``config.malformed``, ``config.unknown_key``, ``config.missing_key``,
        ``config.invalid``.
    """
    table = _read(path)
    base = path.resolve().parent
    pipelines = table.get("pipelines", [])
    if not isinstance(pipelines, list):
        raise AgentError("config.invalid", "pipelines must be an array of tables: [[pipelines]]")
    ready = {
        "device": _build(DeviceConfig, table.get("device", {}), "device", base),
        "delivery": _build(DeliveryConfig, table.get("delivery", {}), "delivery", base),
        "update": _build(UpdateConfig, table.get("update", {}), "update", base),
        "capture": _capture(table.get("capture", {}), base),
        "pipelines": tuple(_pipeline(entry, index, base) for index, entry in enumerate(pipelines)),
    }
    names = [entry.name for entry in ready["pipelines"]]  # type: ignore[attr-defined]  # a tuple of PipelineConfig
    if len(set(names)) != len(names):
        raise AgentError("config.invalid", "two pipelines have the same name")
    kinds = [entry.source.kind for entry in ready["pipelines"]]  # type: ignore[attr-defined]  # as above
    for kind in sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        if source_kind(kind).exclusive:
            raise AgentError("config.invalid", f"only one pipeline of a device can have a source of kind {kind!r}")
        if field_name := source_kind(kind).exclusive_by:
            _check_different(field_name, [entry.source for entry in ready["pipelines"] if entry.source.kind == kind])  # type: ignore[attr-defined]  # as above
    return _build(AgentConfig, table, "the configuration", base, **ready)


def _check_different(field_name: str, sources: list[Any]) -> None:
    values = [getattr(source, field_name) for source in sources]
    if twice := [value for value in values if values.count(value) > 1]:
        raise AgentError("config.invalid", f"two pipelines have a source with {field_name} = {twice[0]!r}")


def firmware_configs() -> Path:
    """The folder of schema and profiles: inside the package when installed, else at the root of the repository.

    Raises:
        AgentError: ``config.profile``.
    """
    here = Path(__file__).resolve()
    for folder in (here.parent / "firmware_configs", here.parents[3] / "firmware_configs"):
        if folder.is_dir():
            return folder
    raise AgentError("config.profile", "firmware_configs is not installed; reinstall wheeltapper-agent")


def profile_names() -> list[str]:
    """The names of all profiles, sorted.

    Raises:
        AgentError: ``config.profile``.
    """
    return sorted(entry.stem for entry in (firmware_configs() / "profiles").glob("*.toml"))


def load_profile(name: str) -> Profile:
    """The profile of a board.

    Raises:
        AgentError: ``config.profile`` (there is none of that name), ``config.unknown_key``, ``config.invalid``.
    """
    folder = firmware_configs() / "profiles"
    path = folder / f"{name}.toml"
    known = profile_names()
    if name not in known:
        raise AgentError("config.profile", f"there is no profile {name[:80]!r}; known are {', '.join(known)}")
    return _build(Profile, _read(path), f"profile {name}", folder)
