"""What every room of the fleet service stands on: errors with stable codes, durable files, child processes, the log.

No data passes through this room; other rooms call it, and it calls none of them. Pure: ``errors`` and ``names``.
"""
