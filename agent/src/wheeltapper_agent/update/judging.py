"""Judges an assignment that came in: fetches the metadata that it is verified with, and reports a refusal.

Invariants:
    * A refused assignment changes nothing, and is reported once per distinct envelope and code.
    * Where the metadata could not be had, the assignment is neither accepted nor refused: it is judged again later.

What this module does not do: the rules themselves (:mod:`wheeltapper_agent.update.trust`).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Sequence
from typing import Final

from wheeltapper_agent.ground.clock import Clock
from wheeltapper_agent.ground.errors import AgentError
from wheeltapper_agent.update.interruption import Interrupted
from wheeltapper_agent.update.metadata import MetadataClient
from wheeltapper_agent.update.reports import ReportQueue
from wheeltapper_agent.update.trust import (
    Accepted,
    RefusedError,
    TrustState,
    check_assignment,
    effective_now,
    is_known,
    read_envelope,
)
from wheeltapper_protocols.errors import brief
from wheeltapper_protocols.wire.messages import AssignmentRefused

__all__ = ["AssignmentJudge"]

_LOG = logging.getLogger(__name__)
_MAX_REMEMBERED_REFUSALS: Final = 256


class AssignmentJudge:
    """Verifies assignments against the repository's metadata.

    Args:
        metadata: the verified view of the repository.
        reports: where refusals go.
        clock: time.
        stopping: set when the agent stops; a refresh of the metadata is broken off then.
    """

    def __init__(self, metadata: MetadataClient, reports: ReportQueue, clock: Clock, stopping: threading.Event) -> None:
        self._metadata = metadata
        self._reports = reports
        self._clock = clock
        self._stopping = stopping
        self._refused: set[tuple[str, str]] = set()
        """SHA-256 of the envelope and code of each refusal that was reported."""

    def judge(self, envelope: bytes, trust_state: TrustState, may_be_outdated: bool = False) -> Accepted | bool:
        """Judge ``envelope``.

        Args:
            envelope: the bytes received.
            trust_state: what was accepted before.
            may_be_outdated: another was accepted since it came; if that is the newer one, there is nothing to report.

        Returns:
            The accepted assignment. Else True if a later try may accept it (the metadata could not be had), and False
            if it is known already or was refused for good.
        """
        if is_known(envelope, trust_state):
            return False
        now = self._clock.now()
        try:
            read_envelope(envelope)  # whatever is none need not wait for metadata
            verified = self._metadata.refresh(effective_now(now, trust_state), self._raise_if_stopping)
            found = check_assignment(envelope, trust_state, verified.verify_director, now, verified.expires_at_seconds)
        except RefusedError as error:
            if may_be_outdated and error.code == "assignment.counter":
                return False
            self.refuse(envelope, error.code, error.message, error.executions)
            return False
        except Interrupted:
            return True
        except AgentError as error:
            if error.code.startswith(("trust.", "storage.")):
                self.refuse(envelope, error.code, error.message)
            else:
                _LOG.info("updater: the assignment waits for metadata that cannot be had now: %s", error)
            return True
        return found if isinstance(found, Accepted) else False

    def refuse(self, subject: bytes, code: str, message: str, executions: Sequence[str] = ()) -> None:
        """Report that an assignment is refused, unless the same was reported before.

        Args:
            subject: the bytes received, or whatever else tells one refusal from another.
            code: stable code of the reason.
            message: the reason, for a person.
            executions: ids of its executions, where the signature held; each is reported.
        """
        refusal = hashlib.sha256(subject).hexdigest(), code
        if refusal in self._refused:
            return
        if len(self._refused) >= _MAX_REMEMBERED_REFUSALS:
            self._refused.clear()
        self._refused.add(refusal)
        _LOG.warning("assignment refused: %s [%s]", message, code)
        for execution in executions or (None,):
            self._reports.add(AssignmentRefused(code=code, detail=brief(message, 2000), execution=execution))

    def _raise_if_stopping(self, _seconds: float) -> None:
        if self._stopping.is_set():
            raise Interrupted
