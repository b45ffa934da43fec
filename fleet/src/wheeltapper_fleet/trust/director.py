"""The director: signs, for one device at a time, which genuine releases it shall run.

Invariant: what is signed is an :class:`Assignment`, encoded here; never bytes from elsewhere. The director's key is
online, and all that it can do is choose among the releases that team keys have signed.

Not here: which device gets what, and the counter (the campaign decides, in its transaction).
"""

from __future__ import annotations

import json
from pathlib import Path

from securesystemslib.dsse import Envelope
from securesystemslib.signer import Signer

from wheeltapper_fleet.ground.errors import FleetError
from wheeltapper_fleet.trust.keys import load_signer, online_key
from wheeltapper_protocols.wire.assignment import MAX_ENVELOPE_BYTES, PAYLOAD_TYPE, Assignment, encode_assignment

__all__ = ["Director"]


class Director:
    """Signs assignments with ``signer``."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @classmethod
    def open(cls, data_dir: Path) -> Director:
        """The director whose key is in the fleet's data folder.

        Raises:
            FleetError: ``keys.missing``.
        """
        return cls(load_signer(online_key(data_dir, "director")))

    def sign(self, assignment: Assignment) -> str:
        """The DSSE envelope of ``assignment``, as JSON text.

        Raises:
            FleetError: ``assignment.too_large``.
        """
        envelope = Envelope(encode_assignment(assignment), PAYLOAD_TYPE, {})
        envelope.sign(self._signer)
        text = json.dumps(envelope.to_dict(), separators=(",", ":"))
        if len(text) > MAX_ENVELOPE_BYTES:
            raise FleetError(
                "assignment.too_large",
                f"the assignment has {len(text)} bytes; a device reads at most {MAX_ENVELOPE_BYTES}",
            )
        return text
