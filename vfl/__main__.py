"""``python -m vfl`` is the command ``vfl``."""

from vfl.cli import main

if __name__ == "__main__":
    main()
