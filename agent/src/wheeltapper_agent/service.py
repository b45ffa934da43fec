"""The agent: wires the adapters together, keeps the status, ends cleanly.

Invariants: only here (and in :mod:`cli`) real adapters are chosen; there is one agent on a state folder; neither a
payload from the broker nor a status that cannot be told ends the agent; a clean end flushes the spool
for a bounded time and says that the device is offline.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from wheeltapper_agent import __version__
from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.config import AgentConfig
from wheeltapper_agent.ground.clock import SystemClock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.files import write_atomic
from wheeltapper_agent.ground.liveness import Liveness
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.ground.state_lock import StateLock
from wheeltapper_agent.host.local_socket import SOCKET_FILE, LocalServer
from wheeltapper_agent.host.notify import Notifier
from wheeltapper_agent.link.https import HttpsClient
from wheeltapper_agent.link.identity import Identity
from wheeltapper_agent.link.mqtt import BrokerAddress, Link, tls_context
from wheeltapper_agent.pipeline.drift import DriftObserver
from wheeltapper_agent.pipeline.observation import Observation, Observer
from wheeltapper_agent.pipeline.pipeline import Pipeline
from wheeltapper_agent.pipeline.quality import QualityObserver
from wheeltapper_agent.records.delivery import Delivery
from wheeltapper_agent.records.spool import Spool, SpoolLimits
from wheeltapper_agent.source.base import Source
from wheeltapper_agent.source.opening import make_or_await_source
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.effects import Effects
from wheeltapper_agent.update.floors import MARKS_FILE, MarkStore
from wheeltapper_agent.update.journal import Journal
from wheeltapper_agent.update.metadata import LateMetadata, MetadataClient
from wheeltapper_agent.update.slots import Slots
from wheeltapper_agent.update.updater import Updater
from wheeltapper_protocols.decision.decision import Verdict
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import decode_down, encode
from wheeltapper_protocols.wire.messages import (
    Ack,
    Alert,
    CancelCommand,
    CaptureCommand,
    ExecutionState,
    PipelineStatus,
    Report,
    Status,
)
from wheeltapper_protocols.wire.topics import Down, Up

__all__ = ["SPOOL_FILE", "STATUS_FILE", "Agent"]

_LOG = logging.getLogger(__name__)
STATUS_FILE: Final = "status.json"
SPOOL_FILE: Final = "spool.sqlite"
_TURN_SECONDS: Final = 1.0
_HANG_SECONDS: Final = 60.0
"""Longer than any window may take to be scored and stored, where nobody set a watchdog."""
_CAPTURES_SHARE: Final = 4
"""The part of the memory cap that windows of recordings may take; a recording being coded takes half as much again."""
_LISTEN_AGAIN_SECONDS: Final = 60.0
_SECONDS_A_DAY: Final = 86_400.0


def make_spool(path: Path, profile: Profile) -> Spool:
    """The spool within the board's limits."""
    limits = SpoolLimits(
        profile.spool_max_records, profile.spool_max_mb * 1024 * 1024, profile.spool_max_days * _SECONDS_A_DAY
    )
    return Spool(path, limits=limits, commit_seconds=profile.spool_commit_seconds)


class Agent:
    """One device's agent.

    Raises:
        AgentError: ``local.in_use``: another one has the state folder.
    """

    def __init__(
        self, config: AgentConfig, profile: Profile, identity: Identity, notifier: Notifier | None = None
    ) -> None:
        state = config.device.state_dir
        fleet = identity.fleet
        self._config, self._profile, self._device = config, profile, fleet.device
        self._clock = SystemClock()
        self._state = state
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._lock = StateLock(state)
        self.spool = make_spool(state / SPOOL_FILE, profile)
        context = tls_context(identity.ca, identity.certificate, identity.key)
        client = HttpsClient(fleet.https_url, context, config.update.http_timeout_seconds)
        self.pipelines: dict[str, Pipeline] = {}
        self._captures = Captures(
            self._device,
            self.pipelines,
            self.spool,
            client,
            self._clock,
            profile.capture_max_mb * 1024 * 1024,
            state / "captures",
            config.capture,
            profile.memory_cap_mb * 1024 * 1024 // _CAPTURES_SHARE,
        )
        self._quality: dict[str, QualityObserver] = {}
        for entry in config.pipelines:
            source = make_or_await_source(entry.name, entry.source, state, self._clock)
            self._quality[entry.name] = QualityObserver(source, entry.quality)
            observers = self._observers(entry.name, source)
            self.pipelines[entry.name] = Pipeline(
                entry.name,
                source,
                self.spool,
                self._clock,
                observers,
                profile.spool_commit_seconds,
                entry.gather_seconds,
            )
        marks = MarkStore((state / MARKS_FILE, state / "slots" / MARKS_FILE))
        root, clock, seconds = identity.root.read_bytes(), self._clock, config.update.metadata_timeout_seconds

        def make_metadata() -> MetadataClient:
            from wheeltapper_agent.update.tuf_client import TufClient

            return TufClient(state / "tuf", root, client, clock, marks, seconds)

        metadata = LateMetadata(make_metadata)
        slots = Slots(state / "slots")
        self._effects = Effects(
            self.pipelines,
            slots,
            BlobStore(
                state / "blobs",
                client,
                slots.find,
                config.update.fetch_bytes_per_second,
                config.update.fetch_least_bytes_per_second,
            ),
            metadata,
            config.update,
            profile,
            self._clock,
            marks,
        )
        self.updater = Updater(
            self._device,
            Journal(state / "journal.json"),
            metadata,
            self._effects,
            marks,
            self.spool,
            self._clock,
            config.update.metadata_retry_seconds,
            self._changed.set,
        )
        address = BrokerAddress(
            self._device, fleet.mqtt_host, fleet.mqtt_port, identity.ca, identity.certificate, identity.key
        )
        self.link = Link(address, self._on_connected, self._on_message, config.delivery.reconnect_max_seconds)
        self._delivery = Delivery(self.spool, self.link, config.delivery, self._clock, profile.batch_records)
        self._notifier = notifier or Notifier()
        self._local = LocalServer(state / SOCKET_FILE, self._answer_local)
        self._listen_at, self._not_listening = float("-inf"), ""
        self._liveness = Liveness(self._notifier.watchdog_seconds or _HANG_SECONDS)
        for name, pipeline in self.pipelines.items():
            self._liveness.watch(f"pipeline {name}", pipeline.alive, pipeline.pulse)
        self._liveness.watch("updater", self.updater.alive)
        self._liveness.watch("captures", self._captures.alive)
        self._liveness.watch("delivery", self._delivery.alive)
        self._liveness.watch("connection", self.link.alive)

    def _observers(self, pipeline: str, source: Source) -> list[Observer]:
        """What looks at each window of a pipeline."""
        quality = self._quality[pipeline]
        drift = DriftObserver(pipeline, self._clock, lambda: quality.total, self._captures.on_drift)
        if self._config.capture.rule_for(pipeline) is None:
            return [quality, drift]
        return [quality, drift, _FromFirstWindow(lambda: self._captures.rules(pipeline, source.spec))]

    def run(self) -> None:
        """Run until :meth:`stop`; returns after a clean end."""
        for name in self.pipelines:
            self._effects.load_active(name)
        for pipeline in self.pipelines.values():
            pipeline.start()
        self.updater.start()
        self._captures.start()
        self._delivery.start()
        self.link.start()
        self._listen()
        self._notifier.ready()
        _LOG.info("agent %s: %s runs on profile %s", __version__, self._device, self._profile.name)
        published_at = self._clock.monotonic()
        self._feed_watchdog()
        while not self._stopping.is_set():
            changed = self._changed.wait(_TURN_SECONDS)
            self._changed.clear()
            self._feed_watchdog()
            for pipeline in self.pipelines.values():
                pipeline.settle_due()
            now = self._clock.monotonic()
            if now >= self._listen_at:
                self._listen()
            if changed or now - published_at >= self._config.device.status_seconds:
                self._write_status()
                self._publish_status()
                published_at = now
        self._end()

    def _listen(self) -> None:
        """Open the local socket; where it cannot be made, again in a while."""
        try:
            self._local.start()
            self._listen_at = float("inf")
        except AgentError as error:
            if error.message != self._not_listening:
                _LOG.warning("agent: %s", error)
            self._listen_at, self._not_listening = self._clock.monotonic() + _LISTEN_AGAIN_SECONDS, error.message

    def stop(self) -> None:
        """Ask :meth:`run` to end; safe in a signal handler."""
        self._stopping.set()
        self._changed.set()

    def _feed_watchdog(self) -> None:
        """Tell the service manager how the threads are; one that hangs makes it end this process."""
        troubles = self._liveness.troubles()
        if troubles:
            _LOG.error("agent: the watchdog is not fed: %s", "; ".join(troubles))
        else:
            self._notifier.watchdog()
        if not self._notifier.listening:
            return
        runs = ", ".join(
            f"{name}: {status.model or 'no model'} {status.release or ''}".strip()
            for name, status in ((name, pipeline.status()) for name, pipeline in self.pipelines.items())
        )
        self._notifier.status("; ".join(troubles) or ("connected" if self.link.connected else "offline") + f"; {runs}")

    def _end(self) -> None:
        _LOG.info("agent: ending")
        self._notifier.stopping()
        self._local.stop()
        self.updater.stop()  # before the pipelines: a stream that is stopped says nothing of a release
        for pipeline in self.pipelines.values():
            pipeline.stop()
        self._captures.stop()
        if self._delivery.flush(self._config.delivery.flush_seconds):
            _LOG.info("agent: everything was delivered")
        self._delivery.stop()
        self.link.stop(encode(self._status(online=False)))
        self._write_status()
        self.spool.close()
        self._lock.close()

    def _status(self, online: bool = True) -> Status:
        figures = self.spool.figures()
        entry = self.updater.entry
        execution = entry.execution
        known = {state.value for state in ExecutionState}
        return Status(
            online=online,
            at=self._clock.now(),
            epoch=figures.epoch,
            seq=figures.seq,
            acked=figures.acked,
            agent_version=__version__,
            profile=self._profile.name,
            counter=entry.counter,
            execution=execution.id if execution else None,
            execution_state=ExecutionState(execution.state) if execution and execution.state in known else None,
            pipelines={name: self._pipeline_status(name) for name in self.pipelines},
        )

    def _pipeline_status(self, name: str) -> PipelineStatus:
        """With the data quality of its windows."""
        found = self.pipelines[name].status()
        quality = msgspec.structs.replace(self._quality[name].total, dropped=found.dropped_windows)
        return msgspec.structs.replace(found, quality=quality)

    def _publish_status(self) -> None:
        try:
            self.link.publish(Up.STATUS, encode(self._status()), retain=True)
        except Exception:  # noqa: BLE001  # logged; windows and commands matter more, and the next one may be told
            _LOG.exception("agent: the status cannot be sent")

    def _body(self) -> dict[str, Any]:
        """What ``wheeltapper-agent status`` shows."""
        status = self._status()
        execution = self.updater.entry.execution
        return {
            "device": self._device,
            "at": status.at,
            "connected": self.link.connected,
            "mqtt": self.link.protocol,
            "agent_version": __version__,
            "profile": status.profile,
            "counter": status.counter,
            "execution": status.execution,
            "execution_state": status.execution_state,
            "execution_code": execution.code if execution else "",
            "execution_detail": execution.detail if execution else "",
            "captures": self._captures.figures(),
            "pipelines": {
                name: {
                    "model": entry.model,
                    "release": entry.release,
                    "windows": entry.windows,
                    "dropped_windows": entry.dropped_windows,
                    "source": entry.source,
                    "runtime": entry.runtime,
                    "last": _last(self.pipelines[name].last),
                    "quality": msgspec.to_builtins(entry.quality),
                }
                for name, entry in status.pipelines.items()
            },
        }

    def _answer_local(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question that came through the local socket.

        Raises:
            AgentError: ``local.unknown``.
        """
        if request.get("ask") != "status":
            raise AgentError("local.unknown", 'the agent answers {"ask": "status"}')
        figures = self.spool.figures()
        return self._body() | {
            "epoch": figures.epoch,
            "seq": figures.seq,
            "acked": figures.acked,
            "held": figures.held,
            "dropped": figures.dropped,
            "troubles": self._liveness.troubles(),
        }

    def _write_status(self) -> None:
        """Keep ``status.json`` for ``wheeltapper-agent status`` while the agent does not run."""
        try:
            write_atomic(Path(self._state / STATUS_FILE), json.dumps(self._body()).encode(), 0o644)
        except Exception as error:  # noqa: BLE001  # logged, as above
            _LOG.warning("status.json cannot be written: %s", error)

    def _on_connected(self) -> None:
        self._delivery.on_connected()
        self._publish_status()

    def _on_message(self, kind: Down, payload: bytes) -> None:
        if kind is Down.ASSIGNMENT:
            if payload:  # an empty one clears the retained message
                self.updater.assign(payload)
            return
        try:
            message = decode_down(kind, payload)
        except WireError as error:
            _LOG.warning("down/%s refused: %s", kind.value, error)
            return
        if isinstance(message, Ack):
            self._delivery.on_ack(message)
        elif isinstance(message.body, CaptureCommand):
            self._captures.take(message, message.body)
        elif isinstance(message.body, CancelCommand):
            self.updater.cancel(message.body.execution)


class _FromFirstWindow:
    """An observer that is made, if at all, with the first window: what windows look like may not be known before."""

    def __init__(self, make: Callable[[], Observer | None]) -> None:
        self._make, self._asked = make, False
        self._made: Observer | None = None

    def observe(self, seen: Observation) -> Sequence[Alert | Report]:
        """See :class:`~wheeltapper_agent.pipeline.observation.Observer`."""
        if not self._asked:
            self._made, self._asked = self._make(), True
        return self._made.observe(seen) if self._made is not None else ()

    def end(self) -> Sequence[Alert | Report]:
        """See :class:`~wheeltapper_agent.pipeline.observation.Observer`."""
        return self._made.end() if self._made is not None else ()


def _last(verdict: Verdict | None) -> dict[str, Any] | None:
    """What the newest window came to; None where it was not scored."""
    if verdict is None or not verdict.valid:
        return None
    names = ("score", "severity", "alert", "label", "value", "zone")
    return {name: getattr(verdict, name) for name in names}
