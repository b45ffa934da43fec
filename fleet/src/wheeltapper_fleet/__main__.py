"""The program ``wheeltapper``, and ``python -P -m wheeltapper_fleet``."""

import sys

from wheeltapper_protocols.python_path import forget_untrusted_folders

__all__ = ["main"]


def main() -> None:
    """Run the command line, which is imported only when no folder of others is on ``sys.path``."""
    forget_untrusted_folders()
    from wheeltapper_fleet.cli.app import main as run_command

    run_command()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the working folder
    main()
