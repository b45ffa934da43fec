"""From a record to a delivered record: the spool and its delivery.

In come telemetry records, alerts and reports of the pipelines and of updates; each gets a number and is kept in SQLite
(``spool.sqlite``). Out go batches to the fleet, until the fleet acknowledges them; and on request one SQLite file for
people (``export``).

Pure files: ``config``, ``port``, ``rows``, ``state``.
"""
