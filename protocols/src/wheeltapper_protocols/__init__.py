"""What the agent and the fleet service agree on: ids, topics, messages, recordings, features, decisions, manifests.

The ground floor: no sockets, no clock, no database, imports nothing of ours.
"""

from wheeltapper_protocols.errors import ProtocolError, RecordingError, WireError

__version__ = "0.1.0"
__all__ = ["ProtocolError", "RecordingError", "WireError", "__version__"]
