"""The table at the end of a sweep."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, final

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from pffdst.runs.foreign import foreign
from pffdst.runs.jobs import jobs_of, table_of

__all__ = ["SweepTable"]


@final
class SweepTable(Callback):
    """Prints a sweep's jobs when the last one has ended, and how to start the unfinished ones again.

    Ends the process with exit code 1 when a job failed, as a failed run does.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the folders of the sweep's jobs; nothing is kept in memory between jobs."""
        del kwargs
        sweep = Path(str(config.hydra.sweep.dir))
        jobs = jobs_of(sweep)
        done = sum(job.done for job in jobs)
        console = Console(soft_wrap=not sys.stdout.isatty())
        console.print(table_of(jobs, sweep))
        console.print(f"{done} done, {len(jobs) - done} failed", highlight=False)
        if done < len(jobs):
            again = shlex.join([Path(sys.executable).name, *sys.argv])
            console.print("To start the rest again (what is done is skipped):", highlight=False)
            console.print(foreign(f"  {again}"), highlight=False)
            raise SystemExit(1)
