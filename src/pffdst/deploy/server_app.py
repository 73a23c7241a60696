"""Flower's ServerApp: the run that its overrides describe, its clients the nodes that are connected."""

from __future__ import annotations

import logging
import shlex
import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pffdst.deploy.session import offered

__all__ = ["app"]

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """`train.py engine=flower OVERRIDES`, with what Flower was told as `overrides`.

    RuntimeError where it fails: Flower then calls the run failed.
    """
    from pffdst.cli.train import main as train

    overrides = shlex.split(str(context.run_config.get("overrides", "")))
    sys.argv[0] = "pffdst"  # what to write next is said in these words
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each look for answers, sent away as a log itself
    with offered(grid):
        code = train(["engine=flower", *overrides])
    sys.stdout.flush()
    if code != 0:
        raise RuntimeError("the run did not end well: what it said is above")
