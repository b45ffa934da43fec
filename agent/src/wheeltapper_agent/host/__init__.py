"""The machine that the agent runs on: installing and removing it, the service manager, and questions from people.

In come the board's profile, what the machine says about itself and requests on the local socket; out go a systemd unit,
the watchdog's signal of life, the status and the findings of ``doctor``. Pure:
:mod:`~wheeltapper_agent.host.finding` and :mod:`~wheeltapper_agent.host.systemd_unit`.
"""
