"""What every room of the agent stands on: errors, clocks, files, configuration files, rates, memory.

Nothing passes through this room: others call it, and it imports no other room of the agent.

Pure files: ``backoff``, ``bounds``, ``clock`` (the protocol), ``errors``, ``liveness``, ``rate``.
"""
