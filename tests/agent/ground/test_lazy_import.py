"""The running agent loads only the modules that it uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from wheeltapper_agent.ground.lazy_import import hidden_module, lazy_import

HEAVY = (
    "cryptography",
    "tuf",
    "securesystemslib",
    "urllib3",
    "sqlite_utils",
    "typer",
    "click",
    "rich",
    "email",
    "onnxruntime",
    "typing_extensions",
)
LAZY = (
    "ipaddress",
    "locale",
    "msgspec.inspect",
    "shutil",
    "subprocess",
    "tempfile",
    "zipfile",
    "zoneinfo",
    "zstandard",
)


def _python(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-c", code]
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_modules_that_the_agent_process_never_imports() -> None:
    code = f"import sys, wheeltapper_agent.daemon; print([name for name in {HEAVY} if name in sys.modules])"
    assert _python(code) == "[]"


def test_modules_that_the_agent_process_imports_at_their_first_use() -> None:
    loaded = f"[name for name in {LAZY} if '__builtins__' in vars(sys.modules[name])]"
    code = f"import sys, wheeltapper_agent.daemon; print({loaded})"
    assert _python(code) == "[]"


def test_a_lazy_module_of_a_package_that_imports_it_itself() -> None:
    code = (
        "import sys; from wheeltapper_agent.ground.lazy_import import lazy_import; lazy_import('msgspec.inspect');"
        "import msgspec; from msgspec import inspect; before = '__builtins__' in vars(inspect);"
        "print(before, msgspec.inspect is inspect, msgspec.json.schema(int), type(inspect.type_info(int)).__name__)"
    )
    assert _python(code) == "False True {'type': 'integer'} IntType"


def test_a_lazy_module_that_several_threads_use_at_once() -> None:
    code = (
        "import sys, threading; from wheeltapper_agent.ground.lazy_import import lazy_import; lazy_import('zipfile');"
        "sys.setswitchinterval(1e-6); import zipfile; gate = threading.Barrier(8); found = [];"
        "use = lambda: (gate.wait(), found.append(zipfile.ZipFile));"
        "threads = [threading.Thread(target=use) for _ in range(8)];"
        "[thread.start() for thread in threads]; [thread.join() for thread in threads];"
        "print(len(found), len(set(found)))"
    )
    assert _python(code) == "8 1"


def test_a_hidden_module_is_not_found_by_others() -> None:
    code = (
        "import sys; from wheeltapper_agent.ground.lazy_import import hidden_module\n"
        "with hidden_module('typing_extensions'):\n    import msgspec\n"
        "print('typing_extensions' in sys.modules); import typing_extensions; print(typing_extensions.__name__)"
    )
    assert _python(code).split() == ["False", "typing_extensions"]


def test_a_loaded_module_is_not_hidden() -> None:
    with hidden_module("os"):
        assert sys.modules["os"] is os
    assert sys.modules["os"] is os


def test_a_lazy_module_is_the_real_one_once_it_is_used() -> None:
    code = (
        "import sys; from wheeltapper_agent.ground.lazy_import import lazy_import; lazy_import('urllib.request');"
        "import urllib.request, urllib.request as request; before = 'http.client' in sys.modules;"
        "made = urllib.request.Request('http://localhost/x');"
        "import importlib; real = importlib.import_module('urllib.request');"
        "print(before, type(made) is real.Request, request.Request is real.Request, 'http.client' in sys.modules)"
    )
    assert _python(code) == "False True True True"


def test_a_loaded_module_stays() -> None:
    before = sys.modules["os.path"]
    lazy_import("os.path")
    assert sys.modules["os.path"] is before
    lazy_import("wheeltapper_agent.no_such_module")
    assert "wheeltapper_agent.no_such_module" not in sys.modules


def test_a_wrong_configuration_ends_the_run_with_2(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-m", "wheeltapper_agent", "run", "--config", str(tmp_path / "none.toml")]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "[config.unreadable]" in done.stderr
