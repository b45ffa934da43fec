"""Candidates: the bundle of a run that succeeded comes in; it waits for a person, who signs it, and a release goes out,
or who rejects it.

Approving is signing: the service has no key of a team, so nothing that it does alone becomes a release. Pure:
``schemas.py``. ``service.py`` changes candidates, ``views.py`` reads them.
"""
