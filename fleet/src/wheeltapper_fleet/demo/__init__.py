"""``wheeltapper demo``: the whole system on one machine, with the service and five agents as processes of their own.

Command-line options go in; a live view in the terminal and, with ``--json``, the demo's figures come out. Pure: none of
its files.
"""
