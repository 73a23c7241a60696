"""`python -m pffdst COMMAND`, the same as the installed command `pffdst`."""

import sys

from pffdst.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
