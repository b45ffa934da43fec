"""The command line ``wheeltapper``: arguments come in, text or JSON and an exit code go out.

The room only carries: commands call the admin API through :mod:`wheeltapper_fleet.client`, or start the service, the
training or the demo. Pure: ``options``.
"""
