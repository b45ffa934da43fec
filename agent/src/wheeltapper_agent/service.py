"""The agent: builds every room's objects, connects them, runs them, ends cleanly.

Invariants:
    * Only here (and in :mod:`wheeltapper_agent.cli`) it is decided which implementation stands behind a protocol.
    * There is one agent on a state folder.
    * Neither a malformed payload from the broker nor a status that cannot be sent ends the agent.
    * A clean end delivers what the spool holds for a bounded time, and then says that the device is offline.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wheeltapper_agent import __version__
from wheeltapper_agent.captures.captures import Captures
from wheeltapper_agent.captures.rules import RulesFromFirstWindow
from wheeltapper_agent.config import AgentConfig
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.ground.liveness import Liveness
from wheeltapper_agent.ground.profile import Profile
from wheeltapper_agent.ground.repeated import RepeatedFaults
from wheeltapper_agent.ground.state_lock import StateLock
from wheeltapper_agent.ground.system_clock import SystemClock
from wheeltapper_agent.ground.wakeup import Wakeup
from wheeltapper_agent.host.attributes import device_attributes
from wheeltapper_agent.host.commands import CommandRunner, Ordered
from wheeltapper_agent.host.local_socket import SOCKET_FILE, LocalServer
from wheeltapper_agent.host.log_tail import LogTail
from wheeltapper_agent.host.notify import Notifier
from wheeltapper_agent.host.settings import SETTINGS_FILE, SettingsKeeper
from wheeltapper_agent.host.status import STATUS_FILE, AgentStatus
from wheeltapper_agent.link.https import HttpsClient
from wheeltapper_agent.link.identity import Identity
from wheeltapper_agent.link.metering import Metering
from wheeltapper_agent.link.mqtt import BrokerAddress, Link, tls_context
from wheeltapper_agent.link.renewal import CertificateRenewal, settle
from wheeltapper_agent.pipeline.baseline import BASELINES_FOLDER
from wheeltapper_agent.pipeline.config import PipelineConfig
from wheeltapper_agent.pipeline.drift import DriftObserver
from wheeltapper_agent.pipeline.observation import Observer
from wheeltapper_agent.pipeline.pipeline import Pipeline, reset_baseline
from wheeltapper_agent.pipeline.quality import QualityObserver
from wheeltapper_agent.records.dating import BOOT_FILE, Dating
from wheeltapper_agent.records.delivery import Delivery
from wheeltapper_agent.records.spool import SPOOL_FILE, Spool, SpoolLimits
from wheeltapper_agent.source.kinds import source_kind
from wheeltapper_agent.source.opening import make_or_defer_source
from wheeltapper_agent.update.blobs import BlobStore
from wheeltapper_agent.update.effects import Effects
from wheeltapper_agent.update.floors import FLOORS_FILE, FloorStore
from wheeltapper_agent.update.hanging_models import HangingModels
from wheeltapper_agent.update.journal import Journal
from wheeltapper_agent.update.metadata import DeferredMetadata, MetadataClient
from wheeltapper_agent.update.slots import Slots
from wheeltapper_agent.update.updater import Updater
from wheeltapper_protocols.errors import WireError
from wheeltapper_protocols.wire.codec import decode_down, encode
from wheeltapper_protocols.wire.commands import (
    CancelCommand,
    CaptureCommand,
    CommandReport,
    DiagnosticsCommand,
    ResetBaselineCommand,
    RestartPipelineCommand,
    Settings,
    SettingsCommand,
)
from wheeltapper_protocols.wire.messages import Ack, ExecutionState
from wheeltapper_protocols.wire.topics import Down

__all__ = ["Agent", "make_spool"]

_LOG = logging.getLogger(__name__)
_TURN_SECONDS: Final = 1.0
"""The main loop looks at its duties at least this often."""
_HANG_SECONDS: Final = 60.0
"""Longer than any window may take to be scored and stored, where nobody set a watchdog."""
_CAPTURES_SHARE: Final = 4
"""Windows of recordings may take one in this many of the memory cap; a recording being encoded takes half as much
again."""
_LISTEN_AGAIN_SECONDS: Final = 60.0
_SECONDS_PER_DAY: Final = 86_400.0
_MB: Final = 1024 * 1024


def make_spool(path: Path, profile: Profile, dating: Dating | None = None) -> Spool:
    """Open the spool at ``path`` with the limits of the board's profile."""
    limits = SpoolLimits(
        profile.spool_max_records, profile.spool_max_mb * _MB, profile.spool_max_days * _SECONDS_PER_DAY
    )
    return Spool(path, limits=limits, commit_seconds=profile.spool_commit_seconds, dating=dating)


class Agent:
    """One device's agent: :meth:`run` blocks until :meth:`stop` is called.

    Args:
        config: the agent's configuration.
        profile: of the board; its limits are the agent's.
        identity: the device's key and certificates, and where its fleet is.
        notifier: tells the service manager how the agent is; None: nobody is told.

    Raises:
        AgentError: ``local.in_use``: another agent runs on the state folder; ``storage.*``: the spool cannot be opened.
    """

    def __init__(
        self, config: AgentConfig, profile: Profile, identity: Identity, notifier: Notifier | None = None
    ) -> None:
        identity = settle(identity)
        self._config, self._profile, self._device = config, profile, identity.fleet.device
        self._state_dir = config.device.state_dir
        self._clock = SystemClock()
        self._status_changed = Wakeup()
        self._stop_requested, self._faults = False, RepeatedFaults(_LOG, self._clock)
        instance = secrets.token_hex(8)
        self._state_lock = StateLock(self._state_dir)

        # A sample: source and pipeline make records of it, the spool keeps them, delivery sends them over the link.
        dating = Dating(self._clock, self._state_dir / BOOT_FILE)
        self.spool = make_spool(self._state_dir / SPOOL_FILE, profile, dating)
        client = _https_client(config, identity)
        fleet = urlsplit(identity.fleet.https_url)
        self._metered = Metering(
            config.update.metered_interfaces, config.update.route_file, fleet.hostname or "", fleet.port or 443
        )
        self.pipelines: dict[str, Pipeline] = {}
        self._quality: dict[str, QualityObserver] = {}
        self._captures = self._make_captures(client)
        for entry in config.pipelines:
            self._add_pipeline(entry)
        self.link = Link(
            _broker_address(identity),
            self._on_connected,
            self._on_message,
            config.delivery.reconnect_max_seconds,
            instance=instance,
        )
        self._renewal = CertificateRenewal(
            identity, client, self._clock, self.link.reconnect, config.update.http_timeout_seconds
        )
        self._delivery = Delivery(self.spool, self.link, config.delivery, self._clock, profile.batch_records, dating)

        # A release: metadata say what it is, blobs hold it, slots keep it, effects run it in the pipelines.
        self._effects, self.updater = self._make_updater(client, identity)

        # What the fleet sets and asks for: settings, commands.
        self._log_level, self._log_tail = logging.getLogger().level, LogTail()
        self._attributes = device_attributes(config)
        self._status_seconds = config.device.status_seconds
        self._settings = SettingsKeeper(self._state_dir / SETTINGS_FILE, self._apply_settings)
        self._commands = CommandRunner(self.spool, self._clock, self._carry_out)

        # The machine that the agent runs on: the service manager's watchdog, and the socket that answers people.
        self._notifier = notifier or Notifier()
        self._liveness, self._hanging_models = self._watch_threads()
        self._status = self._make_status(instance)
        self._local = LocalServer(self._state_dir / SOCKET_FILE, self._status.answer)
        self._listen_at, self._not_listening = float("-inf"), ""

    # --- wiring -------------------------------------------------------------------------------------------------------

    def _make_captures(self, client: HttpsClient) -> Captures:
        return Captures(
            self._device,
            self.pipelines,
            self.spool,
            client,
            self._clock,
            max_bytes=self._profile.capture_max_mb * _MB,
            folder=self._state_dir / "captures",
            config=self._config.capture,
            max_memory_bytes=self._profile.memory_cap_mb * _MB // _CAPTURES_SHARE,
            metered=self._metered,
        )

    def _add_pipeline(self, entry: PipelineConfig) -> None:
        """Open the source of a pipeline and set up what observes its windows: quality, drift, capture rules."""
        name = entry.name
        source = make_or_defer_source(name, entry.source, self._state_dir, self._clock)
        quality = self._quality[name] = QualityObserver(source, entry.quality)
        drift = DriftObserver(name, self._clock, lambda: quality.total, self._captures.on_drift)
        observers: list[Observer] = [quality, drift]
        if self._config.capture.rule_for(name) is not None:
            observers.append(RulesFromFirstWindow(lambda: self._captures.rules(name, source.spec)))
        self.pipelines[name] = Pipeline(
            name,
            source,
            self.spool,
            self._clock,
            observers,
            self._profile.spool_commit_seconds,
            entry.gather_seconds,
            self._state_dir / BASELINES_FOLDER / f"{name}.json",
        )

    def _make_status(self, instance: str) -> AgentStatus:
        return AgentStatus(
            self._device,
            self._profile.name,
            self._state_dir / STATUS_FILE,
            pipelines=self.pipelines,
            quality=self._quality,
            spool=self.spool,
            captures=self._captures,
            updater=self.updater,
            link=self.link,
            renewal=self._renewal,
            liveness=self._liveness,
            clock=self._clock,
            instance=instance,
            attributes=self._attributes,
            settings=self._settings,
        )

    def _make_updater(self, client: HttpsClient, identity: Identity) -> tuple[Effects, Updater]:
        state, config, clock = self._state_dir, self._config.update, self._clock
        root = identity.root.read_bytes()
        floors = FloorStore((state / FLOORS_FILE, state / "slots" / FLOORS_FILE))

        def make_metadata() -> MetadataClient:
            from wheeltapper_agent.update.tuf_client import TufClient  # some MB, needed from the first assignment on

            return TufClient(state / "tuf", root, client, clock, floors, config.metadata_timeout_seconds)

        metadata = DeferredMetadata(make_metadata)
        slots = Slots(state / "slots")
        blobs = BlobStore(
            state / "blobs", client, slots.find, config.fetch_bytes_per_second, config.fetch_least_bytes_per_second
        )
        effects = Effects(self.pipelines, slots, blobs, metadata, config, self._profile, clock, floors, self._metered)
        updater = Updater(
            self._device,
            Journal(state / "journal.json"),
            metadata,
            effects,
            floors,
            self.spool,
            clock,
            config.metadata_retry_seconds,
            self._status_changed.set,
        )
        return effects, updater

    def _watch_threads(self) -> tuple[Liveness, HangingModels]:
        """Watch all threads. A model that hangs is left behind before the watchdog sees it."""
        liveness = Liveness(self._notifier.watchdog_seconds or _HANG_SECONDS)
        for name, pipeline in self.pipelines.items():
            liveness.watch(f"pipeline {name}", pipeline.alive, pipeline)
        liveness.watch("updater", self.updater.alive)
        liveness.watch("captures", self._captures.alive)
        liveness.watch("delivery", self._delivery.alive)
        liveness.watch("commands", self._commands.alive)
        liveness.watch("connection", self.link.alive)
        load_again = self._effects.running.load_again
        return liveness, HangingModels(self.pipelines, liveness.limit_seconds / 2, load_again, self._clock)

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run until :meth:`stop`; returns after a clean end."""
        logging.getLogger().addHandler(self._log_tail)
        for name in self.pipelines:
            self._effects.running.load_active(name)
        for pipeline in self.pipelines.values():
            pipeline.start()
        self.updater.start()
        self._captures.start()
        self._delivery.start()
        self._commands.start()
        self.link.start()
        self._listen()
        self._notifier.ready()
        _LOG.info("agent %s: %s runs with profile %s", __version__, self._device, self._profile.name)
        published_at = self._clock.monotonic()
        self._feed_watchdog()
        while not self._stop_requested:
            changed = self._status_changed.wait(_TURN_SECONDS)
            self._hanging_models.turn()
            self._feed_watchdog()
            self._renewal.turn()
            for pipeline in self.pipelines.values():
                self._flush(pipeline)
            now = self._clock.monotonic()
            if now >= self._listen_at:
                self._listen()
            if changed or now - published_at >= self._status_seconds:
                self._status.write_file()
                self._status.publish()
                published_at = now
        self._end()

    def stop(self) -> None:
        """Ask :meth:`run` to end; safe to call in a signal handler, which must take no lock."""
        self._stop_requested = True
        self._status_changed.set()

    def _flush(self, pipeline: Pipeline) -> None:
        """Write down what waited long enough."""
        try:
            pipeline.flush_due()
        except Exception as error:  # noqa: BLE001  # nothing of one pipeline may end the main loop
            self._faults.happened(f"pipeline {pipeline.name}: its records cannot be written now: {error}")

    def _listen(self) -> None:
        """Open the local socket; where that fails, log it once and plan another attempt."""
        try:
            self._local.start()
            self._listen_at = float("inf")
        except AgentError as error:
            if error.message != self._not_listening:
                _LOG.warning("agent: the local socket cannot be opened: %s", error)
            self._listen_at, self._not_listening = self._clock.monotonic() + _LISTEN_AGAIN_SECONDS, error.message

    def _feed_watchdog(self) -> None:
        """Tell the service manager how the threads are; it restarts the process that stays silent for too long."""
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
        """Stop every room in order, deliver what can be delivered in time, publish that the device is offline."""
        _LOG.info("agent: stopping")
        self._notifier.stopping()
        self._local.stop()
        self._commands.stop()
        self.updater.stop()  # before the pipelines: a pipeline that is being stopped is no evidence against a release
        for pipeline in self.pipelines.values():
            pipeline.begin_to_stop()
        for pipeline in self.pipelines.values():
            pipeline.stop()
        self._captures.stop()
        if self._delivery.flush(self._config.delivery.flush_seconds):
            _LOG.info("agent: every record was delivered")
        self._delivery.stop()
        self.link.stop(encode(self._status.message(online=False)))
        self._status.write_file()
        self.spool.close()
        self._state_lock.close()
        logging.getLogger().removeHandler(self._log_tail)

    # --- messages from the fleet --------------------------------------------------------------------------------------

    def _on_connected(self) -> None:
        self._delivery.on_connected()
        self._status.publish()

    def _on_message(self, kind: Down, payload: bytes) -> None:
        """Hand a message to the room that it is for; one that cannot be decoded is logged and ignored."""
        if kind is Down.ASSIGNMENT:
            if payload:  # an empty payload only clears the retained message
                self.updater.assign(payload)
            return
        try:
            message = decode_down(kind, payload)
        except WireError as error:
            _LOG.warning("agent: a message on down/%s was ignored: %s", kind.value, error)
            return
        if isinstance(message, Ack):
            self._delivery.on_ack(message)
        elif isinstance(message.body, CaptureCommand):
            self._captures.take(message, message.body)
        elif isinstance(message.body, CancelCommand):
            self.updater.cancel(message.body.execution)
        else:
            self._commands.take(message, message.body)

    def _carry_out(self, command: str, body: Ordered) -> CommandReport | None:
        """Do what a command asks; gives the answer, or None where the status is the answer."""
        match body:
            case SettingsCommand():
                self._settings.take(body)
                self._status_changed.set()
                return None
            case RestartPipelineCommand():
                self._restart_pipeline(body.pipeline)
                return CommandReport(command=command)
            case ResetBaselineCommand():
                reset_baseline(self.pipelines, body.pipeline)
                return CommandReport(command=command)
            case DiagnosticsCommand():
                from wheeltapper_agent.host.diagnostics import diagnostics  # some MB, needed for this alone

                log = self._log_tail.lines(body.log_lines)
                answer = self._status.answer
                bundle = diagnostics(
                    self._config, self._profile, lambda: answer({"ask": "status"}), self._attributes, log
                )
                return CommandReport(command=command, bundle=bundle)

    def _apply_settings(self, settings: Settings) -> None:
        level = self._log_level if settings.log_level is None else logging.getLevelNamesMapping()[settings.log_level]
        logging.getLogger().setLevel(level)
        self._delivery.gather(settings.batch_seconds)
        given = settings.status_seconds
        self._status_seconds = self._config.device.status_seconds if given is None else given

    def _restart_pipeline(self, name: str) -> None:
        """End a pipeline, then begin it anew: its source is opened again, its release is loaded again.

        Raises:
            AgentError: ``pipeline.unknown``, ``pipeline.no_restart``, ``pipeline.updating``, ``pipeline.hangs``.
        """
        entry = next((each for each in self._config.pipelines if each.name == name), None)
        if entry is None:
            raise AgentError("pipeline.unknown", f"there is no pipeline {name}")
        if source_kind(entry.source.kind).exclusive:
            raise AgentError("pipeline.no_restart", f"a source of kind {entry.source.kind} cannot be opened twice")
        execution = self.updater.entry.execution
        if execution is not None and not _ended(execution.state):
            raise AgentError("pipeline.updating", f"the execution {execution.id} is under way; ask again after it")
        if not self.pipelines[name].stop():
            raise AgentError("pipeline.hangs", f"the pipeline {name} does not end; restart the agent")
        self._add_pipeline(entry)
        self._effects.running.load_active(name)
        pipeline = self.pipelines[name]
        pipeline.start()
        self._liveness.watch(f"pipeline {name}", pipeline.alive, pipeline)
        self._status_changed.set()


def _https_client(config: AgentConfig, identity: Identity) -> HttpsClient:
    context = tls_context(identity.ca, identity.certificate, identity.key)
    return HttpsClient(identity.fleet.https_url, context, config.update.http_timeout_seconds)


def _broker_address(identity: Identity) -> BrokerAddress:
    fleet = identity.fleet
    files = (identity.ca, identity.certificate, identity.key)
    return BrokerAddress(fleet.device, fleet.mqtt_host, fleet.mqtt_port, *files, fleet.other_brokers)


def _ended(state: str) -> bool:
    return any(each.value == state and each.terminal for each in ExecutionState)
