"""Starts, resumes and records a run of a composed and checked configuration."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pffdst.build import build, content
from pffdst.config.identity import content_differences, content_digest, engine_identity, fingerprint
from pffdst.config.resume import other_run
from pffdst.core.errors import LostError, UserError
from pffdst.experiment import STATE, STATE_FORMAT, Experiment
from pffdst.loggers.tables import print_summary
from pffdst.run import run
from pffdst.runs import checkpoint, files, jobs
from pffdst.runs.checkpoint import CheckpointError
from pffdst.runs.provenance import provenance

__all__ = ["launch", "recorded_run"]

_log = logging.getLogger(__name__)


def launch(cfg: DictConfig) -> float:
    """Runs a composed and checked configuration in its folder, or the rest of it; returns its last-5 accuracy.

    Raises UserError if the folder contains another run, is in use, or a checkpoint cannot be read.
    """
    hydra = HydraConfig.get()
    folder, identity = Path(hydra.runtime.output_dir), fingerprint(cfg)
    in_sweep = hydra.mode == RunMode.MULTIRUN
    resume = cfg.resume
    if in_sweep and resume is False:
        attempt = _attempt(cfg, folder, identity)
        if attempt is not None and attempt.folder != folder.resolve():
            jobs.mark_skipped(folder, attempt.folder)
        if attempt is not None:
            _log.info("%s in %s", "already done" if attempt.done else "resuming", attempt.folder)
            folder, resume = attempt.folder, True
    with jobs.locked(folder):
        if in_sweep and resume is False and jobs.read_run(folder):
            attempt = _attempt(cfg, folder, identity)  # another start of the sweep may have used it until now
            resume = attempt is not None and attempt.folder == folder.resolve()
        summary = finished(folder, identity) if resume is not False else None
        if summary is None:
            state = starting_state(cfg, folder, resume, identity)
            experiment = build(cfg, folder, identity)
            check_content(experiment, state)
            summary = recorded_run(experiment, state, engine_identity(cfg))
        else:
            jobs.mark_found(folder)
            print_summary(summary)
    return float(summary["last5_acc_global"])


def _attempt(cfg: DictConfig, folder: Path, identity: str) -> jobs.Attempt | None:
    """An earlier run that saves a sweep's job from starting over."""
    root = Path(HydraConfig.get().sweep.dir).parent
    return jobs.previous_attempt(root, identity, folder, engine_identity(cfg), lambda: _present_content(cfg))


def _present_content(cfg: DictConfig) -> str:
    """The digest of the current data and model; empty if they cannot be loaded."""
    try:
        return content_digest(content(cfg))
    except UserError:
        return ""


def check_content(experiment: Experiment, state: Mapping[str, Any] | None) -> None:
    """UserError if a run would resume with other data or another model than it started with."""
    if state is None:
        return
    changed = content_differences(state["content"], experiment.content)
    if changed:
        what = "\n".join(f"  - {line}" for line in changed)
        raise UserError(
            f"{experiment.folder} was started with other data or another model; restore them, or start a new run:\n"
            f"{what}"
        )


def finished(folder: Path, identity: str) -> dict[str, Any] | None:
    """The summary of a run that is done already, or None.

    UserError if it is done, but neither its results nor a checkpoint to recreate them exist.
    """
    known = jobs.read_run(folder)
    if (known.get("fingerprint"), known.get("status")) != (identity, "done"):
        return None
    if jobs.is_done(folder):
        summary: dict[str, Any] = files.read_json(folder / files.SUMMARY)
        return summary | {"folder": str(folder)}  # it may have moved since
    if not jobs.has_checkpoint(folder):
        raise UserError(f"{folder}: this run was done, but its {files.SUMMARY} and checkpoints are gone: run it again")
    _log.warning("%s cannot be read: it is recreated from the last checkpoint", folder / files.SUMMARY)
    return None


def starting_state(cfg: DictConfig, folder: Path, resume: bool | str, identity: str) -> dict[str, Any] | None:
    """The checkpoint to resume from; None for a run from the start. UserError if that would lose something."""
    checkpoints = folder / files.CHECKPOINTS
    if resume is False:
        if jobs.holds_work(folder):
            raise UserError(_held(folder, identity))
        return None
    if resume is True:
        found = checkpoint.latest(checkpoints, partial(_check_state, cfg))
        if found is None:
            if not (folder / files.RUN).exists():
                raise UserError(f"resume=true: {folder} contains no run; name one, e.g. resume=logs/runs/DATE/RUN")
            _log.warning("%s has no checkpoint yet: the run starts from round 1", folder)
            return None
        state, path = found
    else:
        path = Path(str(resume))
        state = checkpoint.load(path)
        _check_state(cfg, state, path)
    if state["fingerprint"] != identity:
        state = _lengthened(cfg, folder, path, state, identity)
    _log.info("resuming after round %d from %s", state["t"], path)
    return state


def _held(folder: Path, identity: str) -> str:
    """The message about a folder with a run that must not be overwritten."""
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return f"{folder} already contains a run: write resume=true to resume it, or another hydra.run.dir"
    same = jobs.read_run(folder).get("fingerprint") == identity
    what = "this job with other data or another model" if same else "another sweep's job"
    return f"{folder} already contains {what}: write another hydra.sweep.dir"


def _is(value: Any, kind: type) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


def _check_state(cfg: DictConfig, state: Any, path: Path) -> None:
    """CheckpointError if no run of this configuration saves such a state; the parts check their own in `restore`."""
    if isinstance(state, dict) and isinstance(state.get("format"), int) and state["format"] != STATE_FORMAT:
        raise UserError(f"{path} was written by another version of this program: finish the run with that version")
    wrong = [f"no {name}" for name in STATE if not isinstance(state, dict) or name not in state]
    if not wrong:
        wrong = [f"{name} is not of type {kind.__name__}" for name, kind in STATE.items() if not _is(state[name], kind)]
    if not wrong and not state["t"] <= cfg.rounds:
        wrong = [f"t={state['t']}, in a run of {cfg.rounds} rounds"]
    if wrong:
        raise CheckpointError(f"checkpoint {path}: it was not written by a run ({', '.join(wrong[:3])})")


def _lengthened(cfg: DictConfig, folder: Path, path: Path, state: dict[str, Any], identity: str) -> dict[str, Any]:
    """The checkpoint of a run that gets more rounds, as the longer run's, also saved to disk in case it is killed next.

    UserError if it belongs to another run.
    """
    if jobs.read_run(folder).get("fingerprint") == state["fingerprint"]:
        lines = other_run(cfg, folder)
        if state["stop"] and not lines:  # the summary with this reason may not be written yet
            lines = [f"resume: {state['stop']}, which ended the run in round {state['t']}: start a new run"]
    else:
        lines = [f"{path} does not belong to the run in its folder, whose configuration differs: name another"]
    if lines:
        raise UserError("\n".join(lines))
    longer = state | {"fingerprint": identity}
    checkpoint.save(folder / files.CHECKPOINTS, longer)
    _log.info("the run is extended to %d rounds", cfg.rounds)
    return longer


def recorded_run(experiment: Experiment, state: Mapping[str, Any] | None, engine: str) -> dict[str, Any]:
    """Runs and records the status in run.json and the resolved configuration in config.yaml."""
    folder, identity = experiment.folder, experiment.fingerprint
    text = OmegaConf.to_yaml(OmegaConf.create(dict(experiment.config)))
    files.write_whole(folder / files.CONFIG, text.encode())
    note_provenance(folder, 0 if state is None else int(state["t"]))
    experiment.describe_clients()
    made_of = content_digest(experiment.content)
    jobs.mark(folder, identity, "running", engine, made_of)
    try:
        summary = run(experiment, state)
    except UserError as error:
        if not isinstance(error, LostError):  # which can be resumed as it is
            jobs.mark_failed(folder, identity, str(error))
        raise
    jobs.mark(folder, identity, "done", engine, made_of)
    return summary


def note_provenance(folder: Path, t: int) -> None:
    """Adds this start to provenance.json: [{"from_round", "machine", "versions", "command", "date", "git"}].

    A run from the start (t = 0) replaces the file; a resumed one has an entry for each start.
    """
    path = folder / files.PROVENANCE
    before: Any = []
    if t > 0 and path.exists():
        with suppress(files.FileProblem):
            before = files.read_json(path)
    text = json.dumps([*(before if isinstance(before, list) else ()), {"from_round": t + 1, **provenance()}], indent=2)
    files.write_whole(path, text.encode() + b"\n")
