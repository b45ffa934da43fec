"""What the device is: operating system, architecture, versions of libraries, a hash of its configuration.

Each status carries it, so that the fleet can find devices by it. It is read once, at the start of the agent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
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
    for library in _LIBRARIES:
        try:
            found[f"lib.{library}"] = version(library)
        except PackageNotFoundError:
            continue
    return {name: value[:_MAX_CHARACTERS] for name, value in found.items()}


def config_hash(config: AgentConfig) -> str:
    """The same for the same configuration, whatever the order and the comments of its file; another one otherwise."""
    text = json.dumps(dataclasses.asdict(config), sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_CHARACTERS]


def _plain(value: Any) -> str:
    return str(value)
