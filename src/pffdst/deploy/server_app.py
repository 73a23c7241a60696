"""Flower's ServerApp: the run that its overrides describe, with the connected nodes as clients."""

from __future__ import annotations

import logging
import shlex
import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pffdst.core.program import DEPLOYED
from pffdst.deploy.session import offered

__all__ = ["app"]

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """`train.py engine=flower OVERRIDES` with Flower's configured `overrides`, or the configured `survey`.

    RuntimeError if it fails: Flower then marks the run as failed.
    """
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs each check for answers
    if asked := str(context.run_config.get("survey", "")):
        _survey(grid, asked)
        return
    from pffdst.cli.train import main as train

    overrides = shlex.split(str(context.run_config.get("overrides", "")))
    sys.argv[0] = DEPLOYED  # the commands in messages start with this
    with offered(grid):
        code = train(["engine=flower", *overrides])
    sys.stdout.flush()
    if code != 0:
        raise RuntimeError("the run failed; see its output above")


def _survey(grid: Grid, asked: str) -> None:
    from pffdst.core.errors import UserError
    from pffdst.deploy.survey import Ask, survey

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        settings = survey(grid, Ask.of_words(asked))
    except UserError as error:
        print(error, flush=True)
        raise RuntimeError("the survey failed; see its output above") from None
    print("to run with these clients, with the test images in PATH:", flush=True)
    print(f"pffdst deploy run ... dataset.path=PATH {shlex.join(settings[1:])}", flush=True)
