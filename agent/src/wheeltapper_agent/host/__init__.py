"""The machine that the agent runs on: installing and removing it, the service manager, and questions from people.

In come the board's profile, what the machine says about itself and requests on the local socket; out go a systemd unit,
the watchdog's signal of life, the status, the findings of ``doctor`` and what a source gives. Pure:
:mod:`~wheeltapper_agent.host.finding`, :mod:`~wheeltapper_agent.host.source_trial_text` and
:mod:`~wheeltapper_agent.host.systemd_unit`.
"""
