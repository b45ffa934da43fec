"""``python -m wheeltapper_fleet`` is ``wheeltapper``."""

from wheeltapper_fleet.cli import main

main()
