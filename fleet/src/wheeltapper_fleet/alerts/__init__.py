"""Alerts and cases: alert messages of devices come in; cases that people act on, labels and their value come out.

The ingest stores alerts (``store.py``) and does nothing else with them. A duty (``intake.py``) takes each into a case
and lets ``triage.py`` say whether it needs a person. People act on cases through ``service.py``; what they find out
becomes labels. Pure: ``case.py`` (the case and its machine), ``triage.py``, ``announcing.py``, ``schemas.py``.
``store.py``, ``case_store.py``, ``releases.py`` and ``findings.py`` work in the caller's transaction; ``intake.py``,
``service.py`` and ``silences.py`` own theirs; ``views.py`` reads.
"""
