"""Train one federated model, a sweep of them, or search for one: `python train.py --help`.

Importing this file does nothing: worker processes import it again.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from pffdst.engines.ranks import Ranks

CONFIGS = Path(__file__).resolve().parent / "configs"


def follow(ranks: "Ranks") -> None:
    """What another process of torchrun than the first does."""
    from pffdst.build import follow as run_clients

    run_clients(ranks)


def run(cfg: "DictConfig") -> float:
    """One run of a composed configuration; gives its final accuracy."""
    from pffdst.cli.train import job
    from pffdst.launch import launch

    return job(cfg, launch)


def main() -> int:
    """Looks at the command line, composes, checks, runs; gives the exit code."""
    from pffdst.cli.train import cli

    return cli(run, CONFIGS, follow)


if __name__ == "__main__":
    sys.exit(main())
