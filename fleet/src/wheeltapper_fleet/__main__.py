"""``python -P -m wheeltapper_fleet`` is ``wheeltapper``."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working folder: what lies there must not run

from wheeltapper_fleet.cli.app import main  # after the above

main()
