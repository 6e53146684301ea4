"""``python -m service`` is ``fcn-serve``."""

from service.cli import main

if __name__ == "__main__":
    main()
