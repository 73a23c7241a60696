"""Train one federated model, a sweep, or a search: `python train.py --help`."""

import sys

from pffdst.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
