"""The walls of the house: who may import whom, which files are pure, what never reaches a device, how long code may be.

Every rule is a function from the source files to a list of sentences, one a violation. The tests ask it of the real
tree, where the list must be empty, and of a copy with one violation planted, where it must not.
"""

from __future__ import annotations

import ast
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house import Read, circles, nodes, parsed, room_of

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "wheeltapper_protocols": ROOT / "protocols/src/wheeltapper_protocols",
    "wheeltapper_agent": ROOT / "agent/src/wheeltapper_agent",
    "wheeltapper_fleet": ROOT / "fleet/src/wheeltapper_fleet",
}
ROOMS: dict[str, tuple[str, ...]] = {
    "wheeltapper_protocols": (
        "errors",
        "python_path",
        "usage",
        "signal",
        "tables",
        "drift",
        "wire",
        "decision",
        "manifest",
    ),
    "wheeltapper_agent": (
        "ground",
        "source",
        "model",
        "records",
        "pipeline",
        "link",
        "captures",
        "update",
        "adapters",
        "ports",
        "config",
        "host",
        "service",
        "daemon",
        "cli_support",
        "cli_export",
        "cli_device",
        "cli",
        "__main__",
    ),
    "wheeltapper_fleet": (
        "ground",
        "db",
        "processes",
        "access",
        "audit",
        "trust",
        "registry",
        "telemetry",
        "history",
        "devices",
        "notify",
        "assets",
        "alerts",
        "captures",
        "campaigns",
        "promotion",
        "learning",
        "lineage",
        "ingest",
        "broker",
        "api",
        "device_api",
        "ui",
        "client",
        "training",
        "sim",
        "demo",
        "tables",
        "backup",
        "export",
        "config",
        "upkeep",
        "reloading",
        "serving",
        "service",
        "cli",
        "__main__",
    ),
}
"""The rooms of each package and the modules of its root, lowest first: a room imports from itself and from lower ones
only. Whoever adds a room decides here what it may stand on. One a line, so that two who add one seldom meet."""
PACKAGES = {"wheeltapper_protocols": (), "wheeltapper_agent": ("wheeltapper_protocols",)}
PACKAGES["wheeltapper_fleet"] = ("wheeltapper_protocols",)
"""Which other packages of ours a package may import."""
PURE: dict[str, tuple[str, ...]] = {
    "wheeltapper_protocols": (
        "decision.baseline",
        "decision.decision",
        "decision.condition",
        "decision.evidence",
        "decision.interval",
        "decision.reasons",
        "decision.score_age",
        "decision.scoring",
        "drift.drift",
        "drift.sketch",
        "errors",
        "manifest.inference_task",
        "manifest.manifest",
        "manifest.model_file",
        "manifest.model_tensor",
        "manifest.runtimes",
        "manifest.onnx_file",
        "manifest.tflite_file",
        "signal.bearing_lines",
        "signal.feature_kinds",
        "signal.iso20816",
        "signal.quality",
        "tables.cells",
        "tables.notes",
        "tables.options",
        "tables.times",
        "usage",
        "wire.assignment",
        "wire.codec",
        "wire.commands",
        "wire.ids",
        "wire.messages",
        "wire.topics",
        "wire.values",
    ),
    "wheeltapper_agent": (
        "captures.config",
        "ground.backoff",
        "ground.bounds",
        "ground.clock",
        "ground.errors",
        "ground.rate",
        "host.finding",
        "host.source_trial_text",
        "host.systemd_unit",
        "link.disconnects",
        "link.routes",
        "link.validity",
        "model.tensors",
        "pipeline.change",
        "pipeline.config",
        "pipeline.newest_score",
        "pipeline.observation",
        "pipeline.pace",
        "pipeline.quality",
        "records.config",
        "records.port",
        "records.rows",
        "records.state",
        "source.base",
        "source.cutter",
        "source.framing",
        "source.iio_format",
        "source.iio_names",
        "source.irregular",
        "source.modbus_registers",
        "source.payload",
        "source.payload_formats",
        "source.payload_rows",
        "source.physical_value",
        "source.stream_config",
        "source.timing",
        "update.comparison",
        "update.conditions",
        "update.deadline",
        "update.desired",
        "update.effect_result",
        "update.journal_entry",
        "update.machine",
        "update.probation",
        "update.resume",
        "update.trial_time",
        "update.trust",
    ),
    "wheeltapper_fleet": (
        "access.permissions",
        "access.principal",
        "access.schemas",
        "alerts.announcing",
        "alerts.budget",
        "alerts.case",
        "alerts.channel",
        "alerts.schemas",
        "alerts.statistics",
        "alerts.triage",
        "api.schemas",
        "api.view",
        "assets.files",
        "assets.rules",
        "assets.schemas",
        "audit.chain",
        "audit.schemas",
        "broker.config",
        "broker.mosquitto",
        "broker.nats_cluster",
        "broker.partitions",
        "broker.permissions",
        "broker.settings",
        "campaigns.rules.campaign",
        "campaigns.rules.default_release",
        "campaigns.rules.execution",
        "campaigns.rules.explanation",
        "campaigns.rules.forecast",
        "campaigns.rules.foresight",
        "campaigns.rules.gates",
        "campaigns.rules.meeting",
        "campaigns.rules.panel",
        "campaigns.rules.sequential",
        "campaigns.rules.spec",
        "campaigns.rules.waves",
        "campaigns.schemas",
        "captures.rules",
        "captures.schemas",
        "captures.spectra",
        "cli.options",
        "device_api.rate_limit",
        "devices.instances",
        "devices.rules",
        "devices.schemas",
        "export.schema",
        "ground.body",
        "ground.buckets",
        "ground.errors",
        "ground.etag",
        "ground.names",
        "ground.paging",
        "ground.query",
        "ground.rounds",
        "history.settings",
        "ingest.message",
        "learning.candidates.schemas",
        "learning.datasets.checks",
        "learning.datasets.croissant",
        "learning.datasets.manifest",
        "learning.datasets.splits",
        "learning.errors",
        "learning.runs.recipe_text",
        "learning.runs.rules",
        "learning.runs.schemas",
        "learning.policies.choosing",
        "learning.policies.events",
        "learning.policies.rules",
        "learning.policies.schemas",
        "learning.policies.spec",
        "learning.schemas",
        "lineage.card_text",
        "lineage.schemas",
        "notify.occurrence",
        "notify.rules",
        "notify.schemas",
        "notify.settings",
        "notify.signing",
        "promotion.schemas",
        "registry.promotion_rules",
        "registry.runnable",
        "registry.schemas",
        "sim.assignments",
        "sim.behaviour",
        "sim.device",
        "sim.draws",
        "sim.fault_table",
        "sim.faults",
        "sim.machine",
        "sim.messages",
        "sim.mqtt_packets",
        "sim.result",
        "sim.spool",
        "sim.update",
        "sim.updates",
        "telemetry.drift",
        "telemetry.present",
        "telemetry.rollup",
        "telemetry.rules",
        "telemetry.schemas",
        "telemetry.spool",
        "training.budget",
        "training.conditions",
        "training.conformal",
        "training.errors",
        "training.judging.metrics",
        "training.own_input",
        "training.recipe",
        "training.runs.plots",
        "trust.expiry",
        "ui.advice",
        "ui.charts",
        "ui.navigation",
        "ui.spectrum_chart",
        "ui.trend",
        "ui.words",
    ),
}
"""Files that do no I/O, read no clock and no random numbers, themselves or through what they import. The list grows; it
never shrinks. Sorted, one a line."""
IMPURE_MODULES = {
    "_thread", "asyncio", "concurrent", "ctypes", "fastapi", "fcntl", "glob", "http", "httpx", "io", "logging", "mmap",
    "multiprocessing", "nats", "onnxruntime", "os", "paho", "random", "requests", "secrets", "select", "shutil",
    "signal", "socket", "sqlalchemy", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "tuf",
    "urllib", "urllib3", "uuid", "uvicorn", "zoneinfo",
}  # fmt: skip
HARMLESS = {"threading.local"}
"""A buffer of one's own in each thread is memory, neither I/O nor a clock."""
IMPURE_CALLS = {
    "default_rng", "now", "open", "read_bytes", "read_text", "today", "utcnow", "write_bytes", "write_text", "urandom",
    "getenv", "iterdir", "print", "input", "perf_counter",
}  # fmt: skip
DYNAMIC = {
    "wheeltapper_agent.ground.lazy_import",
    "wheeltapper_agent.model.runtimes",
    "wheeltapper_agent.model.tflite",
    "wheeltapper_agent.source.kinds",
}
"""The files that import by a name which they have as a value; each has its names as texts, which are followed."""
CARRIERS = (
    "wheeltapper_fleet.api",
    "wheeltapper_fleet.device_api",
    "wheeltapper_fleet.ui",
    "wheeltapper_fleet.ingest.ingest",
)
"""What only carries: no SQL."""
HANDED_ON = ("sqlalchemy.Engine", "sqlalchemy.exc.")
"""What they may name of SQLAlchemy: the database that they hand on, and what it raises."""
DEVICE_NEVER = {"pandas", "scipy", "river", "whylogs", "sklearn", "sqlalchemy", "fastapi", "pydantic", "httpx"}
PICKLING = {"pickle", "dill", "marshal", "shelve", "joblib"}
ROOT_FILES = 10
MODULE_LINES, CLASS_LINES, FUNCTION_LINES = 500, 350, 60
LONG_BECAUSE = "long because"
"""A docstring says it, and why, where a function is longer."""


def pure_modules() -> list[str]:
    """The dotted names of :data:`PURE`."""
    return [f"{package}.{file}" for package, files in PURE.items() for file in files]


def order_of(package: str) -> tuple[str, ...]:
    """The rooms of ``package`` by their dotted names, lowest first."""
    return tuple(f"{package}.{room}" for room in ROOMS[package])


# --- the rules --------------------------------------------------------------------------------------------------------


def walled(read: Read) -> Iterator[str]:
    """Nothing is imported from a higher room, nor from a package that is none of one's business."""
    for module, imports in read.imports.items():
        package = module.partition(".")[0]
        order = order_of(package)
        mine = room_of(module, order)
        if mine is None and module != package:
            yield f"{module} is in no room of ROOMS"
        for found in imports:
            target = read.ours(found.name)
            if target is None:
                continue
            other = target.partition(".")[0]
            if other != package:
                if other not in PACKAGES[package]:
                    yield f"{module}:{found.line} imports {found.name}: {package} may not import {other}"
            elif mine is not None and (theirs := room_of(target, order)) is not None and theirs > mine:
                yield f"{module}:{found.line} imports {found.name}: {order[mine]} is below {order[theirs]}"


def acyclic(read: Read) -> Iterator[str]:
    """No file imports itself by a detour."""
    for circle in circles(read.edges):
        yield "a circle: " + " <-> ".join(circle)


def rooms_introduced(read: Read) -> Iterator[str]:
    """A room's ``__init__`` says what the room is for and imports nothing: who imports one file pays for one file."""
    for module, file in read.files.items():
        if file.name == "__init__.py" and "migrations" not in module and module.count(".") == 1:
            tree = parsed(file)
            if len(ast.get_docstring(tree) or "") < 80:
                yield f"{module} does not say what comes in, what goes out, and which files are pure"
            if any(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body):
                yield f"{module} imports something"


def named(read: Read) -> Iterator[str]:
    """Nobody imports by a name that is made at run time, where it could not be followed."""
    for module, file in read.files.items():
        for node in nodes(file):
            if (
                isinstance(node, ast.Call)
                and _called(node) in {"import_module", "__import__"}
                and module not in DYNAMIC
            ):
                constant = node.args and isinstance(node.args[0], ast.Constant)
                if not constant:
                    yield f"{module}:{node.lineno} imports a name that is not written there; DYNAMIC lists who may"
            if isinstance(node, ast.JoinedStr) and _begins(node).startswith(
                tuple(f"{package}." for package in SOURCES)
            ):
                yield f"{module}:{node.lineno} makes the name of a module of ours out of parts"


def pure(read: Read) -> Iterator[str]:
    """A pure file imports nothing impure, itself or through a file of ours, and calls nothing that looks like it."""
    for module in pure_modules():
        if module not in read.files:
            yield f"{module} is in PURE and not there"
            continue
        for each in sorted(read.reached(module)):
            names = {found.name for found in read.imports[each]} - HARMLESS
            impure = {name for name in names if name.partition(".")[0] in IMPURE_MODULES}
            if impure:
                yield f"{module} reaches {', '.join(sorted(impure))}" + ("" if each == module else f" through {each}")
        for node in nodes(read.files[module]):
            if isinstance(node, ast.Call) and _called(node) in IMPURE_CALLS:
                yield f"{module}:{node.lineno} calls {_called(node)}"


def carrying(read: Read) -> Iterator[str]:
    """What only carries knows no table and no SQL."""
    for module, imports in read.imports.items():
        if module.startswith(CARRIERS):
            for found in imports:
                sql = found.name.startswith("sqlalchemy") and not found.name.startswith(HANDED_ON)
                if sql or ".tables" in found.name:
                    yield f"{module}:{found.line} imports {found.name}: it only carries"


def light(read: Read) -> Iterator[str]:
    """Nothing heavy reaches the device, and nothing that trains the running service."""
    for module, imports in read.imports.items():
        if not module.startswith("wheeltapper_fleet"):
            for found in imports:
                if found.name.partition(".")[0] in DEVICE_NEVER:
                    yield f"{module}:{found.line} imports {found.name}: too heavy for a device"
    for module in sorted(read.reached("wheeltapper_fleet.service")):
        if module.startswith("wheeltapper_fleet.training"):
            yield f"the running service reaches {module}"


def safe(read: Read) -> Iterator[str]:
    """No pickle, no eval, no shell."""
    for module, file in read.files.items():
        for found in read.imports[module]:
            if found.name.partition(".")[0] in PICKLING:
                yield f"{module}:{found.line} imports {found.name}"
        for node in nodes(file):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
                yield f"{module}:{node.lineno} calls {node.func.id}"
            for keyword in node.keywords:
                if keyword.arg in {"shell", "allow_pickle"} and getattr(keyword.value, "value", True):
                    yield f"{module}:{node.lineno} says {keyword.arg}"


def short(read: Read) -> Iterator[str]:
    """No module, class or function is longer than one can hold in mind; the agent's root is a page of names."""
    for module, file in read.files.items():
        if "migrations" in module:
            continue
        if (lines := file.read_text(encoding="utf-8").count("\n")) > MODULE_LINES:
            yield f"{module} has {lines} lines"
        for node in nodes(file):
            most = FUNCTION_LINES if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else CLASS_LINES
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > most and LONG_BECAUSE not in (ast.get_docstring(node) or ""):
                    yield f"{module}:{node.lineno} {node.name} has {lines} lines"
    root = [
        module
        for module in read.files
        if module.count(".") <= 1 and read.files[module].parent == read.sources["wheeltapper_agent"]
    ]
    if len(root) > ROOT_FILES:
        yield f"the agent's root has {len(root)} files"


def _begins(node: ast.JoinedStr) -> str:
    """What an f-string begins with."""
    first = node.values[0] if node.values else None
    return str(first.value) if isinstance(first, ast.Constant) else ""


def _called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


Rule = Callable[[Read], Iterator[str]]
RULES: tuple[Rule, ...] = (
    walled, acyclic, rooms_introduced, named, pure, carrying, light, safe, short,
)  # fmt: skip


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def house() -> Read:
    return Read(SOURCES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps(house: Read, rule: Rule) -> None:
    assert list(rule(house)) == []


PLANTED = [
    (walled, "agent/ground/rate.py", "from wheeltapper_agent.update import machine\n"),
    (walled, "agent/records/spool.py", "def f() -> None:\n    import wheeltapper_agent.link.mqtt\n"),
    (walled, "agent/model/bundle.py", "from wheeltapper_fleet.ground import errors\n"),
    (walled, "protocols/wire/topics.py", "from wheeltapper_agent.ground import errors\n"),
    (walled, "fleet/api/app.py", "import importlib\nimportlib.import_module('wheeltapper_fleet.ui.pages')\n"),
    (walled, "agent/storage/new.py", "A_ROOM = 'that nobody named'\n"),
    (acyclic, "agent/ground/errors.py", "from wheeltapper_agent.ground import state_lock\n"),
    (acyclic, "agent/source/base.py", "def f() -> None:\n    from wheeltapper_agent.source import stream\n"),
    (
        acyclic,
        "agent/source/replay.py",
        "import importlib\nkinds = importlib.import_module('wheeltapper_agent.source.kinds')\n",
    ),
    (acyclic, "agent/source/stream.py", "LATER = {'kinds': 'wheeltapper_agent.source.kinds:BUILT_IN'}\n"),
    (named, "agent/source/stream.py", "import importlib\ndef f(x: str) -> None:\n    importlib.import_module(x)\n"),
    (named, "agent/source/kinds.py", "def g(x: str) -> str:\n    return f'wheeltapper_agent.source.{x}'\n"),
    (rooms_introduced, "agent/ground/__init__.py", "from wheeltapper_agent.ground import files\n"),
    (rooms_introduced, "agent/empty/__init__.py", ""),
    (pure, "agent/update/machine.py", "import time\n"),
    (pure, "agent/update/probation.py", "def f() -> None:\n    from random import random\n"),
    (pure, "agent/update/resume.py", "from wheeltapper_agent.ground import files\n"),
    (pure, "agent/update/deadline.py", "from datetime import UTC, datetime\nNOW = datetime.now(UTC)\n"),
    (pure, "fleet/campaigns/rules/waves.py", "import sqlalchemy\n"),
    (pure, "protocols/decision/decision.py", "TEXT = open('/etc/hostname')\n"),
    (carrying, "fleet/api/app.py", "from sqlalchemy import select\n"),
    (carrying, "fleet/ui/pages.py", "from wheeltapper_fleet.devices.tables import devices\n"),
    (light, "agent/pipeline/drift.py", "def f() -> None:\n    import scipy.stats\n"),
    (light, "fleet/campaigns/engine.py", "from wheeltapper_fleet.training import gates\n"),
    (safe, "agent/model/bundle.py", "import pickle\n"),
    (safe, "agent/model/tflite.py", "eval('1')\n"),
    (safe, "fleet/registry/blobs.py", "import subprocess\nsubprocess.run('ls', shell=True)\n"),
    (short, "agent/ground/rate.py", "def f() -> None:\n" + "    f()\n" * FUNCTION_LINES),
    (short, "agent/ground/rate.py", "class Big:\n" + "    a = 1\n" * CLASS_LINES),
    (short, "agent/ground/rate.py", "# a line\n" * MODULE_LINES),
]


@pytest.fixture(scope="module")
def seen_before(house: Read) -> Callable[[Rule], set[str]]:
    """What a rule finds in the real tree, asked once."""
    return functools.cache(lambda rule: set(rule(house)))


def _copied(tmp_path: Path) -> dict[str, Path]:
    """A copy of the sources to plant something in."""
    copies = {name: tmp_path / name for name in SOURCES}
    for name, folder in SOURCES.items():
        shutil.copytree(folder, copies[name], ignore=shutil.ignore_patterns("__pycache__", "static", "templates"))
    return copies


@pytest.mark.parametrize(("rule", "place", "planted"), PLANTED)
def test_a_planted_violation_is_seen(
    tmp_path: Path, seen_before: Callable[[Rule], set[str]], rule: Rule, place: str, planted: str
) -> None:
    package, _, inside = place.partition("/")
    copies = _copied(tmp_path)
    file = copies[f"wheeltapper_{package}"] / inside
    file.parent.mkdir(exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.write("\n" + planted)
    assert set(rule(Read(copies))) - seen_before(rule), "nothing was seen"


def test_an_eleventh_file_in_the_agents_root_is_seen(tmp_path: Path) -> None:
    copies = _copied(tmp_path)
    for number in range(ROOT_FILES):
        (copies["wheeltapper_agent"] / f"extra_{number}.py").touch()
    assert any("root" in each for each in short(Read(copies)))


def test_a_pure_file_that_went_away_is_missed(tmp_path: Path) -> None:
    copies = _copied(tmp_path)
    (copies["wheeltapper_agent"] / "update/machine.py").rename(copies["wheeltapper_agent"] / "update/table.py")
    assert any("update.machine is in PURE and not there" in each for each in pure(Read(copies)))
