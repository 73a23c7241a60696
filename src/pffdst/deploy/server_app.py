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
    """`train.py engine=flower OVERRIDES`, with what Flower was told as `overrides`; or the `survey` it was told of.

    RuntimeError where it fails: Flower then calls the run failed.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each look for answers, sent away as a log itself
    if asked := str(context.run_config.get("survey", "")):
        _survey(grid, asked)
        return
    from pffdst.cli.train import main as train

    overrides = shlex.split(str(context.run_config.get("overrides", "")))
    sys.argv[0] = "pffdst"  # what to write next is said in these words
    with offered(grid):
        code = train(["engine=flower", *overrides])
    sys.stdout.flush()
    if code != 0:
        raise RuntimeError("the run did not end well: what it said is above")


def _survey(grid: Grid, asked: str) -> None:
    from pffdst.core.errors import UserError
    from pffdst.deploy.survey import Ask, survey

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = survey(grid, Ask.of_words(asked))
    except UserError as error:
        print(error, flush=True)
        raise RuntimeError("the survey did not end well: what it said is above") from None
    print("a run of these clients, whose test images are in PATH:", flush=True)
    print(f"pffdst deploy run ... dataset.path=PATH {shlex.join(settings[1:])}", flush=True)
