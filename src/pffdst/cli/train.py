"""From the command line to a run and back: what a failure prints, and the exit code."""

from __future__ import annotations

import logging
import math
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.syntax import Syntax

from pffdst.cli.failures import user_error
from pffdst.cli.numbered import numbered
from pffdst.cli.unread import outlived
from pffdst.config.check import check, tidy
from pffdst.config.choices import Choices
from pffdst.config.compose import VERSION_BASE, composition_line, register
from pffdst.config.flags import CommandLine
from pffdst.config.identity import fingerprint
from pffdst.config.overrides import preflight
from pffdst.core.ending import listen
from pffdst.core.errors import LostError, UserError, needs
from pffdst.core.program import command_line, deployed
from pffdst.engines.ranks import RankLostError, Ranks, current, join
from pffdst.runs.jobs import discard_unbegun, has_checkpoint, mark_failed

__all__ = ["Interrupted", "cli", "configs", "follow", "job", "main", "run"]

_SHOWS = frozenset({"--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i", "-sc", "--shell-completion"})

_log = logging.getLogger(__name__)


@final
class Interrupted(KeyboardInterrupt):
    """A run stopped by the signal `number`; `folder` is where it can be resumed from."""

    def __init__(self, folder: Path, sweep: bool, number: int = signal.SIGINT) -> None:
        super().__init__(folder, sweep, number)
        self.folder = folder
        self.sweep = sweep
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """`train`: reads the command line, composes, checks and runs; returns the exit code described in `cli`."""
    if argv is not None:
        sys.argv[1:] = argv
    return cli(run, configs(), follow)


def run(cfg: DictConfig) -> float:
    """Runs a composed configuration once and returns its final accuracy."""
    from pffdst.launch import launch  # imports torch, which checking the command line does not need

    return job(cfg, launch)


def follow(ranks: Ranks) -> None:
    """What every torchrun process but the first does."""
    from pffdst.build import follow as run_clients

    run_clients(ranks)


def configs() -> Path:
    """The configuration folder: inside the installed package, or at the top of a clone."""
    packaged = Path(__file__).resolve().parents[1] / "configs"
    return packaged if packaged.is_dir() else packaged.parents[2] / "configs"


def cli(task: Callable[[DictConfig], float], config_dir: Path, follow: Callable[[Ranks], None]) -> int:
    """Joins the other ranks if torchrun started this process. Rank 0, or a single process, runs; the others `follow`.

    Returns the process's exit code, described in `_run`.
    """
    try:
        ranks = join()
    except UserError as error:
        return _report(error)
    if ranks is None:
        with outlived(quiet=bool(set(sys.argv) & _SHOWS)):
            return _run(task, config_dir)
    if ranks.rank != 0:
        follow(ranks)
    try:
        code = _run(task, config_dir)
    except RankLostError as lost:  # while a message was printed
        code = _report(lost)
    ranks.close()
    if ranks.broken:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # threads still waiting for the lost rank would keep the process alive
    return code


def _run(task: Callable[[DictConfig], float], config_dir: Path) -> int:
    """Checks `sys.argv`, runs `task` under Hydra, once or for every job, and returns the process's exit code.

    0: done. 1: a bug, with its traceback, or a sweep or search with failed jobs. 2: a user error, in one message.
    130: stopped by Ctrl-C, with the command that resumes; 143 by SIGTERM, 129 by SIGHUP.
    """
    logging.raiseExceptions = False  # a log that cannot be written stays silent: its cause is reported elsewhere
    listen()
    # Otherwise Hydra would print a shortened traceback and exit before the errors could be told apart here.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    register()
    try:
        line = CommandLine.of(sys.argv[1:])
        if line.multirun:
            _refuse_ranks("-m", "the sweep")
        sys.argv[1:] = preflight(sys.argv[1:], config_dir)
        if (line.multirun or line.searches) and not line.shows:
            _own_wandb_ids()
        if line.searches:
            _refuse_ranks("A search", "the search")
            return _search()(sys.argv[1:], config_dir, task)
        hydra.main(str(config_dir), "train", VERSION_BASE)(task)()
    except KeyboardInterrupt as stop:
        print(_how_to_resume(stop), file=sys.stderr)
        return 128 + int(getattr(stop, "number", signal.SIGINT))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        return _report(error)
    return 0


def job(cfg: DictConfig, launch: Callable[[DictConfig], float]) -> float:
    """One run, alone or as a sweep's job: tidies and checks its configuration, then launches it.

    In a sweep, a failure is recorded in the job's folder and in the log, and returns NaN: the other jobs continue.
    """
    folder, sweep = _folder(), _in_sweep()
    cfg = tidy(cfg, Choices.current())
    with numbered(HydraConfig.get().job.num if sweep and _side_by_side() else None), outlived():
        return _attempt(cfg, launch, folder, sweep)


def _attempt(cfg: DictConfig, launch: Callable[[DictConfig], float], folder: Path, sweep: bool) -> float:
    try:
        check(cfg)
        if cfg.print_config:
            Console().print(Syntax(OmegaConf.to_yaml(cfg, resolve=True), "yaml", theme="ansi_dark", word_wrap=True))
        accuracy = launch(cfg)
        if not sweep:
            print(f"to view the report: {command_line('report', [str(_short(folder)), '-o', 'report.html'])}")
        return accuracy
    except KeyboardInterrupt as stop:
        raise Interrupted(folder, sweep, int(getattr(stop, "number", signal.SIGINT))) from None
    except Exception as error:
        if sweep and not isinstance(error, RankLostError):
            _note_failure(folder, cfg, error)
            return math.nan
        user = user_error(error)
        if user is None:
            _mark_failed(folder, cfg, error)
            raise
        discard_unbegun(folder)
        # Hydra would print its own line before an exception that leaves the job.
        if isinstance(user, LostError):
            print(f"{user} {_how_to_go_on(folder)}", file=sys.stderr)
        raise SystemExit(1 if isinstance(user, LostError) else _report(error)) from None


def _search() -> Callable[..., int]:
    """The function that runs a search; only searches need Optuna."""
    try:
        from pffdst.search.runner import run_search
    except ModuleNotFoundError as error:
        raise needs("a search", error) from error
    return run_search


def _own_wandb_ids() -> None:
    """Removes W&B's run id from the environment: several runs with one id would be drawn as one."""
    if given := os.environ.pop("WANDB_RUN_ID", None):
        print(f"WANDB_RUN_ID={given} names a single run: each of these runs gets its own id", file=sys.stderr)


def _refuse_ranks(what: str, runs: str) -> None:
    """UserError when several runs are started under torchrun."""
    if current() is not None:
        raise UserError(
            f"{what} cannot be used with torchrun, whose ranks share one run: start torchrun once per run, or start "
            f"{runs} without torchrun, with its jobs in parallel (hydra/launcher=joblib)"
        )


def _how_to_go_on(folder: Path) -> str:
    if not has_checkpoint(folder):
        return "There was no checkpoint yet: start again."
    if current() is None:
        return f"To resume from the last checkpoint: {_again(folder)}"
    words = shlex.join([f"resume={folder}", *CommandLine.of(sys.argv[1:]).places])
    start = f"torchrun --nproc-per-node=N {sys.argv[0]}"
    return f"To resume from the last checkpoint, with any number of ranks: {start} {words}"


def _again(folder: Path) -> str:
    return command_line("train", [f"resume={folder}", *CommandLine.of(sys.argv[1:]).places])


def _note_failure(folder: Path, cfg: DictConfig, error: Exception) -> None:
    user = user_error(error)
    if user is None:
        _log.error("the job failed", exc_info=error)
    else:
        _log.error("the job failed: %s", user)
    _mark_failed(folder, cfg, error)


def _mark_failed(folder: Path, cfg: DictConfig, error: Exception) -> None:
    try:
        identity = fingerprint(cfg)
    except Exception:
        identity = ""  # a configuration that cannot be resolved has none
    mark_failed(folder, identity, str(user_error(error) or error) or type(error).__name__)


def _report(error: Exception) -> int:
    user = user_error(error)
    if user is not None:
        print(str(user), file=sys.stderr)
        return 2
    if isinstance(error, HydraException) and not isinstance(error, InstantiationException):
        print(f"The configuration cannot be composed: {composition_line(error)}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    return 1


def _how_to_resume(stop: KeyboardInterrupt) -> str:
    command = command_line("train", sys.argv[1:])
    line = CommandLine.of(sys.argv[1:])
    if stop.sweep if isinstance(stop, Interrupted) else line.multirun or line.searches:
        return f"Stopped. Finished jobs are kept and skipped when you run the same command again: {command}"
    if not isinstance(stop, Interrupted):
        return "Stopped before a run started."
    if not has_checkpoint(stop.folder):
        return f"Stopped before the first checkpoint. To start again: {command}"
    return f"Stopped. To resume from the last checkpoint: {_again(stop.folder)}"


def _folder() -> Path:
    return Path(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else Path.cwd()


def _short(folder: Path) -> Path:
    """The folder relative to the working directory, if it is inside it and that is the user's."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) and not deployed() else folder


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _side_by_side() -> bool:
    """Whether the launcher is not Hydra's own, which runs one job after another."""
    return not str(HydraConfig.get().launcher.get("_target_")).endswith(".BasicLauncher")
