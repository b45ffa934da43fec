"""What the device is: operating system, architecture, versions of libraries, a hash of its configuration.

Each status carries it, so that the fleet can find devices by it. It is read once, at the start of the agent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from typing import Any, Final

from wheeltapper_agent.config import AgentConfig

__all__ = ["config_hash", "device_attributes"]

_LIBRARIES: Final = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "numpy")
_HASH_CHARACTERS: Final = 16
_MAX_CHARACTERS: Final = 200


def device_attributes(config: AgentConfig) -> dict[str, str]:
    """The attributes by name: ``os``, ``arch``, ``python``, ``config``, ``runtime`` libraries as ``lib.NAME``."""
    system = os.uname()
    found = {
        "os": f"{system.sysname} {system.release}",
        "arch": system.machine,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "config": config_hash(config),
    }
    found |= {f"lib.{library}": version for library, version in _installed().items()}
    return {name: value[:_MAX_CHARACTERS] for name, value in found.items()}


def config_hash(config: AgentConfig) -> str:
    """The same for the same configuration, whatever the order and the comments of its file; another one otherwise."""
    text = json.dumps(dataclasses.asdict(config), sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]


def _installed() -> dict[str, str]:
    """The versions of those of :data:`_LIBRARIES` that are installed, by the names of the folders that describe them.

    ``importlib.metadata`` would tell the same, for a megabyte of memory.
    """
    wanted = {library.replace("-", "_"): library for library in _LIBRARIES}
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            project, _, version = name.removesuffix(".dist-info").rpartition("-")
            library = wanted.get(project.lower().replace("-", "_"))
            if library is not None and name.endswith(".dist-info"):
                found.setdefault(library, version)
    return found


def _plain(value: Any) -> str:
    return str(value)
