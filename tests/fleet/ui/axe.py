"""axe-core on a page: what keeps people who hear it, or use it by keyboard, from its content."""

from __future__ import annotations

import json
from importlib.metadata import files
from typing import Any, Final

from tests.browser import Page

__all__ = ["serious_findings"]

_SEVERE: Final = ("serious", "critical")
_RUN: Final = "axe.run(document, {resultTypes: ['violations']}).then((found) => JSON.stringify(found.violations))"


def _source() -> str:
    """The script of axe-core, read out of the package: to import it takes a driver of browsers that we do not have."""
    found = next(each for each in files("axe-core-python") or () if each.name == "axe.min.js")
    return found.read_text(encoding="utf-8")


def serious_findings(page: Page) -> list[str]:
    """What axe-core finds on the open page that is serious or critical: one sentence for each element.

    The script is put in by the debugging protocol, which the page's content security policy does not stop.
    """
    if page.evaluate("typeof axe") == "undefined":
        page.evaluate(f"{_source()};0")
    violations: list[dict[str, Any]] = json.loads(page.evaluate(_RUN))
    return [
        f"{rule['id']}: {rule['help']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for rule in violations
        if rule["impact"] in _SEVERE
        for node in rule["nodes"]
    ]
