"""Policies: when drift, wrong alerts, estimated quality or age cross a limit, recordings are asked for, and a dataset,
a run, a candidate, its approval and a campaign follow by themselves.

Pure: ``spec.py`` (what a policy says), ``events.py`` (what it is told), ``rules.py`` (the machine), ``choosing.py``
(which devices record) and ``schemas.py``. ``engine.py`` takes the steps, ``observing.py`` looks, ``acting.py`` does;
``service.py`` changes policies, ``views.py`` reads them.
"""
