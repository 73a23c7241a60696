"""`python -m pffdst COMMAND`: what the installed command `pffdst` does."""

import sys

from pffdst.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
