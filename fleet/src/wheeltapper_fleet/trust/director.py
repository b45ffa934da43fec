"""The director role: signs assignments, each of which tells one device which releases to run.

Invariant: only an :class:`Assignment` is signed, encoded here; never bytes from elsewhere. The director's key is
online, so it must not be powerful: it can only choose among the releases that team keys have signed.

What this module does not do: decide which device gets which release, or count assignments (the campaign engine does, in
its transaction).
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
    """Signs assignments.

    Args:
        signer: signs with the director's key.
    """

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @classmethod
    def open(cls, data_dir: Path) -> Director:
        """Load the director's key from the service's data folder.

        Raises:
            FleetError: ``keys.missing``.
        """
        return cls(load_signer(online_key(data_dir, "director")))

    def sign(self, assignment: Assignment) -> str:
        """Sign an assignment.

        Returns:
            The DSSE envelope as JSON text, ready to be published to the device.

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
