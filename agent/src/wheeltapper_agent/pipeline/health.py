"""How the model of a pipeline does since it was swapped in, and what is said of its errors."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from wheeltapper_agent.model.bundle import Bundle

__all__ = ["Health", "HealthCount"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """How the present model did since it was swapped in: windows scored, code of the first error (empty: none), calls
    of the model."""

    windows: int = 0
    error: str = ""
    calls: int = 0


class HealthCount:
    """Counts the health of a pipeline's model. The caller holds the pipeline's lock for all but :meth:`log`.

    Args:
        pipeline: its name.
    """

    def __init__(self, pipeline: str) -> None:
        self._pipeline = pipeline
        self._logged: set[str] = set()
        self.now = Health()

    def swapped(self) -> None:
        """Another model is to run: count from zero."""
        self.now = Health()

    def began(self) -> None:
        """Another model runs: its errors are logged anew."""
        self._logged.clear()

    def add(self, windows: int, calls: int) -> None:
        """Count windows that have a verdict, and calls of the model that came back."""
        self.now = replace(self.now, windows=self.now.windows + windows, calls=self.now.calls + calls)

    def failed(self, code: str) -> None:
        """Remember the first error."""
        self.now = replace(self.now, error=self.now.error or code)

    def log(self, bundle: Bundle, error: Exception) -> str:
        """Log an error of the model, each kind once; return its code."""
        code = str(getattr(error, "code", "runtime.run"))
        if code not in self._logged:
            self._logged.add(code)
            release = bundle.manifest.release
            _LOG.error("pipeline %s: release %s cannot score a window: %s", self._pipeline, release, error)
        return code
