"""Notifications: what happened comes in, in the transaction that decided it; signed webhooks and mails go out.

In come occurrences (a case was opened, got worse, was resolved). Rules say which target is told of which; each telling
is a row of an outbox, which a duty delivers. Pure: ``occurrence.py``.
"""
