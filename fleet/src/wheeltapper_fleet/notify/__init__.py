"""Notifications: what happened comes in, in the transaction that decided it; signed webhooks and mails go out.

In come occurrences (a case was opened, got worse, was resolved). The rules of each target say whether it is told; each
telling is a row of an outbox (``outbox.py``, in the caller's transaction), which a duty delivers (``delivery.py``, with
``webhook.py`` and ``mail.py``). ``service.py`` changes targets, ``views.py`` reads. Pure: ``occurrence.py``,
``rules.py``, ``schemas.py``, ``settings.py``, ``signing.py``.
"""
