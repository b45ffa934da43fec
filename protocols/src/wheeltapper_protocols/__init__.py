"""The contract between the agent and the fleet service: messages, recordings, features, decisions and manifests.

Both sides import this package, and it imports neither of them. It opens no socket or database, reads no clock and draws
no random numbers. Its rooms, from low to high: ``signal``, ``drift``, ``wire``, ``decision``, ``manifest``.
"""

from wheeltapper_protocols.errors import ProtocolError, RecordingError, WireError

__version__ = "0.1.0"
__all__ = ["ProtocolError", "RecordingError", "WireError", "__version__"]
