"""What the agent says about itself: to the fleet, to a person on the device, and to whoever reads ``status.json``.

Three forms of one state:
    * :meth:`AgentStatus.message` is the retained ``up/status`` message of the wire protocol.
    * :meth:`AgentStatus.answer` is the answer to ``{"ask": "status"}`` on the local socket.
    * :meth:`AgentStatus.write_file` keeps the last state for the time in which the agent does not run.

Invariant: a status that cannot be sent or written is logged; it never ends the agent.

Not done here: printing it for people (:mod:`wheeltapper_agent.host.status_text`), serving the socket
(:mod:`wheeltapper_agent.host.local_socket`).
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_agent import __version__
from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.ground.liveness import Liveness
from wheeltapper_agent.host.settings import SettingsKeeper
from wheeltapper_agent.link.mqtt import Link
from wheeltapper_agent.link.renewal import CertificateRenewal
from wheeltapper_agent.pipeline.newest_score import NewestScore
from wheeltapper_agent.pipeline.pipeline import Pipeline, reset_baseline
from wheeltapper_agent.pipeline.quality import QualityObserver
from wheeltapper_agent.records.spool import Spool
from wheeltapper_agent.source.deferred import SourceTrouble
from wheeltapper_agent.update.updater import Updater
from wheeltapper_protocols.wire.codec import encode
from wheeltapper_protocols.wire.messages import ExecutionState, PipelineStatus, Status
from wheeltapper_protocols.wire.topics import Up

__all__ = ["STATUS_FILE", "AgentStatus"]

_LOG = logging.getLogger(__name__)
STATUS_FILE: Final = "status.json"
"""In the state folder."""
_MAX_FAULTS: Final = 8
"""Kinds of faults of one source that the status names, the newest first."""


class AgentStatus:
    """Reads the state of the agent's rooms whenever somebody asks; keeps none of its own.

    Args:
        device: the device's id.
        profile: name of the board's profile.
        file: where the last status is kept.
        pipelines: by name.
        quality: the data quality observer of each pipeline, by the pipeline's name.
        spool: records that wait for the fleet.
        captures: recordings that wait for their upload.
        updater: the execution under way.
        link: the connection to the broker; the status is published there.
        renewal: the life of the device's certificate.
        liveness: the checks of all threads.
        clock: time.
        instance: drawn at random at this start of the agent.
        attributes: of the device.
        settings: those of the fleet that are in force.
    """

    def __init__(
        self,
        device: str,
        profile: str,
        file: Path,
        *,
        pipelines: Mapping[str, Pipeline],
        quality: Mapping[str, QualityObserver],
        spool: Spool,
        captures: Captures,
        updater: Updater,
        link: Link,
        renewal: CertificateRenewal,
        liveness: Liveness,
        clock: Clock,
        instance: str | None = None,
        attributes: Mapping[str, str] | None = None,
        settings: SettingsKeeper | None = None,
    ) -> None:
        self._device, self._profile, self._file = device, profile, file
        self._pipelines, self._quality = pipelines, quality
        self._spool, self._captures, self._updater = spool, captures, updater
        self._link, self._renewal, self._liveness, self._clock = link, renewal, liveness, clock
        self._instance = instance
        self._attributes, self._settings = dict(attributes or {}), settings

    def message(self, online: bool = True) -> Status:
        """The status as the wire protocol defines it; ``online=False`` is the last one before a clean end."""
        figures = self._spool.figures()
        entry = self._updater.entry
        execution = entry.execution
        known = {state.value for state in ExecutionState}
        return Status(
            online=online,
            at=self._clock.now(),
            epoch=figures.epoch,
            seq=figures.seq,
            acked=figures.acked,
            agent_version=__version__,
            profile=self._profile,
            counter=entry.counter,
            execution=execution.id if execution else None,
            execution_state=ExecutionState(execution.state) if execution and execution.state in known else None,
            pipelines={name: self._pipeline_status(name) for name in self._pipelines},
            instance=self._instance,
            disconnects=dict(self._link.disconnects),
            attributes=self._attributes,
            settings_version=self._settings.version if self._settings is not None else 0,
            settings=self._settings.settings if self._settings is not None and self._settings.version else None,
            captures=self._captures.share(),
        )

    def _pipeline_status(self, name: str) -> PipelineStatus:
        """The status of one pipeline, together with the data quality of its windows."""
        found = self._pipelines[name].status()
        quality = msgspec.structs.replace(self._quality[name].total, dropped=found.dropped_windows)
        return msgspec.structs.replace(found, quality=quality)

    def publish(self) -> None:
        """Publish the retained status message. A failure is logged: windows and commands matter more."""
        try:
            self._link.publish(Up.STATUS, encode(self.message()), retain=True)
        except Exception:  # noqa: BLE001  # logged; the next status may succeed
            _LOG.exception("agent: the status cannot be sent; it is tried again at the next status interval")

    def _body(self) -> dict[str, Any]:
        """What ``wheeltapper-agent status`` shows, whether the agent runs or not."""
        status = self.message()
        execution = self._updater.entry.execution
        return {
            "device": self._device,
            "at": status.at,
            "connected": self._link.connected,
            "mqtt": self._link.protocol,
            "disconnects": status.disconnects,
            "agent_version": __version__,
            "profile": status.profile,
            "attributes": status.attributes,
            "settings": msgspec.to_builtins(status.settings),
            "counter": status.counter,
            "execution": status.execution,
            "execution_state": status.execution_state,
            "execution_code": execution.code if execution else "",
            "execution_detail": execution.detail if execution else "",
            "captures": self._captures.figures(),
            "captures_held_back": self._captures.held_back,
            "certificate": self._renewal.figures(),
            "pipelines": {
                name: {
                    "model": entry.model,
                    "release": entry.release,
                    "windows": entry.windows,
                    "dropped_windows": entry.dropped_windows,
                    "source": entry.source,
                    "runtime": entry.runtime,
                    "partly_scored": entry.partly_scored,
                    "unknown_conditions": entry.unknown_conditions,
                    **_last_decision(*self._pipelines[name].newest_score()),
                    "quality": msgspec.to_builtins(entry.quality),
                    "faults": [fault._asdict() for fault in self._quality[name].faults[:_MAX_FAULTS]],
                    "failures": entry.faults,
                    "baseline": msgspec.to_builtins(entry.baseline),
                    "trouble": _trouble(self._pipelines[name].trouble),
                }
                for name, entry in status.pipelines.items()
            },
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer on the local socket: the status, or reset a baseline (``{"ask": "reset_baseline", "pipeline": …}``).

        Raises:
            AgentError: ``local.unknown`` for any other request; those of :func:`reset_baseline`.
        """
        if request.get("ask") == "reset_baseline":
            reset_baseline(self._pipelines, str(request.get("pipeline")))
            return {"reset": request.get("pipeline")}
        if request.get("ask") != "status":
            raise AgentError("local.unknown", 'the agent answers {"ask": "status"} and {"ask": "reset_baseline"}')
        figures = self._spool.figures()
        return self._body() | {
            "epoch": figures.epoch,
            "seq": figures.seq,
            "acked": figures.acked,
            "held": figures.held,
            "dropped": figures.dropped,
            "troubles": self._liveness.troubles(),
        }

    def write_file(self) -> None:
        """Write ``status.json``, which ``wheeltapper-agent status`` shows while the agent does not run."""
        try:
            write_atomic(self._file, json.dumps(self._body()).encode(), 0o644)
        except Exception as error:  # noqa: BLE001  # logged; a full disk must not end the agent
            _LOG.warning("agent: %s cannot be written: %s", self._file.name, error)


def _trouble(trouble: SourceTrouble | None) -> dict[str, Any] | None:
    """Why a pipeline gets no windows, and when its source is tried again; None where it does."""
    return None if trouble is None else dataclasses.asdict(trouble)


def _last_decision(newest: NewestScore, now: float) -> dict[str, Any]:
    """The decision on the newest window (``last``) and how old the newest score is, in seconds.

    ``last`` is None where the newest window got no score, or where it is too long ago to be the present one.
    """
    verdict = newest.present(now)
    names = ("score", "severity", "alert", "label", "value", "zone")
    return {
        "last": {name: getattr(verdict, name) for name in names} if verdict is not None else None,
        "score_age_seconds": round(now - newest.at, 3) if newest.verdict is not None else None,
        "pace_seconds": newest.pace_seconds,
        "no_score": newest.no_score,
    }
