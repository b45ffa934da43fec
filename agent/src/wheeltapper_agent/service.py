"""The agent: wires the adapters together, keeps the status, ends cleanly.

Invariants: only here (and in :mod:`cli`) real adapters are chosen; a payload from the broker never ends the agent; a
clean end flushes the spool
for a bounded time and says that the device is offline.
"""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any, Final

from wheeltapper_agent import __version__
from wheeltapper_agent.adapters.blobs import BlobStore
from wheeltapper_agent.adapters.clock import SystemClock
from wheeltapper_agent.adapters.delivery import Delivery
from wheeltapper_agent.adapters.files import write_atomic
from wheeltapper_agent.adapters.http import HttpsClient
from wheeltapper_agent.adapters.identity import Identity
from wheeltapper_agent.adapters.journal import Journal
from wheeltapper_agent.adapters.late_metadata import LateMetadata
from wheeltapper_agent.adapters.marks import MARKS_FILE, MarkStore
from wheeltapper_agent.adapters.mqtt import BrokerAddress, Link, tls_context
from wheeltapper_agent.adapters.slots import Slots
from wheeltapper_agent.adapters.sources import make_source
from wheeltapper_agent.adapters.spool import Spool
from wheeltapper_agent.captures import Captures
from wheeltapper_agent.config import AgentConfig, Profile
from wheeltapper_agent.effects import Effects
from wheeltapper_agent.pipeline import Pipeline
from wheeltapper_agent.updater import Updater
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.messages import (
    Ack,
    CancelCommand,
    CaptureCommand,
    ExecutionState,
    Status,
    decode_down,
    encode,
)
from wheeltapper_protocols.topics import Down, Up

__all__ = ["SPOOL_FILE", "STATUS_FILE", "Agent"]

_LOG = logging.getLogger(__name__)
STATUS_FILE: Final = "status.json"
SPOOL_FILE: Final = "spool.sqlite"
_LOCAL_STATUS_SECONDS: Final = 1.0


class Agent:
    """One device's agent."""

    def __init__(self, config: AgentConfig, profile: Profile, identity: Identity) -> None:
        state = config.device.state_dir
        fleet = identity.fleet
        self._config, self._profile, self._device = config, profile, fleet.device
        self._clock = SystemClock()
        self._state = state
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self.spool = Spool(state / SPOOL_FILE, profile.spool_max_records)
        context = tls_context(identity.ca, identity.certificate, identity.key)
        client = HttpsClient(fleet.https_url, context, config.update.http_timeout_seconds)
        self.pipelines = {
            entry.name: Pipeline(entry.name, make_source(entry, state, self._clock), self.spool, self._clock)
            for entry in config.pipelines
        }
        metadata = LateMetadata(state / "tuf", identity.root.read_bytes(), client, self._clock)
        marks = MarkStore((state / MARKS_FILE, state / "slots" / MARKS_FILE))
        self._effects = Effects(
            self.pipelines,
            Slots(state / "slots"),
            BlobStore(state / "blobs", client),
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
        limit = profile.capture_max_mb * 1024 * 1024
        self._captures = Captures(self._device, self.pipelines, self.spool, client, self._clock, limit)
        address = BrokerAddress(
            self._device, fleet.mqtt_host, fleet.mqtt_port, identity.ca, identity.certificate, identity.key
        )
        self.link = Link(address, self._on_connected, self._on_message, config.delivery.reconnect_max_seconds)
        self._delivery = Delivery(self.spool, self.link, config.delivery, self._clock, profile.batch_records)

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
        _LOG.info("agent %s: %s runs on profile %s", __version__, self._device, self._profile.name)
        published_at = self._clock.monotonic()
        while not self._stopping.is_set():
            changed = self._changed.wait(_LOCAL_STATUS_SECONDS)
            self._changed.clear()
            self._write_status()
            if changed or self._clock.monotonic() - published_at >= self._config.device.status_seconds:
                self._publish_status()
                published_at = self._clock.monotonic()
        self._end()

    def stop(self) -> None:
        """Ask :meth:`run` to end; safe in a signal handler."""
        self._stopping.set()
        self._changed.set()

    def _end(self) -> None:
        _LOG.info("agent: ending")
        for pipeline in self.pipelines.values():
            pipeline.stop()
        self.updater.stop()
        self._captures.stop()
        if self._delivery.flush(self._config.delivery.flush_seconds):
            _LOG.info("agent: everything was delivered")
        self._delivery.stop()
        self.link.stop(encode(self._status(online=False)))
        self._write_status()
        self.spool.close()

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
            pipelines={name: pipeline.status() for name, pipeline in self.pipelines.items()},
        )

    def _publish_status(self) -> None:
        self.link.publish(Up.STATUS, encode(self._status()), retain=True)

    def _write_status(self) -> None:
        """Keep ``status.json`` for ``wheeltapper-agent status``."""
        status = self._status()
        body: dict[str, Any] = {
            "device": self._device,
            "at": status.at,
            "connected": self.link.connected,
            "mqtt": self.link.protocol,
            "agent_version": __version__,
            "profile": status.profile,
            "counter": status.counter,
            "execution": status.execution,
            "execution_state": status.execution_state,
            "pipelines": {
                name: {
                    "model": entry.model,
                    "release": entry.release,
                    "windows": entry.windows,
                    "dropped_windows": entry.dropped_windows,
                    "source": entry.source,
                    "runtime": entry.runtime,
                }
                for name, entry in status.pipelines.items()
            },
        }
        try:
            write_atomic(Path(self._state / STATUS_FILE), json.dumps(body).encode(), 0o644)
        except OSError as error:
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
