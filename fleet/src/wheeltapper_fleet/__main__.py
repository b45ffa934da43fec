"""``python -m wheeltapper_fleet`` is ``wheeltapper``."""

from wheeltapper_fleet.cli.app import main

main()
