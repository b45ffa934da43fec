"""``python -m wheeltapper_agent``."""

from wheeltapper_agent.cli import main

if __name__ == "__main__":
    main()
