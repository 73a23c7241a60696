"""`resume=PATH`: the command line of an earlier run, rebuilt, and its folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from pffdst.config.flags import key_of
from pffdst.config.identity import differences, fingerprint
from pffdst.config.lengthen import lengthening
from pffdst.runs.files import CONFIG, HYDRA, OVERRIDES, SUMMARY, SWEEP, FileProblem, read_json, read_yaml
from pffdst.runs.jobs import holds_work, read_run

__all__ = ["Expanded", "as_value", "expand", "folder_problems", "other_run", "quoted"]

_HOW = "write resume=FOLDER with a run's folder, e.g. resume=logs/runs/DATE/RUN, or a checkpoint file in it"
_PLAIN = re.compile(r"[A-Za-z0-9_.+/-]+")
# A preset of several runs belongs to their command line; one of them is resumed as a single run.
_NOT_AGAIN = ("resume", "sweep", "search")


@final
@dataclass(frozen=True)
class Expanded:
    """Overrides with `resume=PATH` expanded, or the problem that prevents it.

    `saved` are those that come from the run's `folder`: they are not trusted.
    """

    overrides: list[str]
    problems: list[str]
    saved: tuple[str, ...] = ()
    folder: Path | None = None


def expand(overrides: Sequence[str], multirun: bool) -> Expanded:
    """Expands `resume=PATH`: the run's saved overrides, the new ones, `hydra.run.dir=PATH`, `resume=true`.

    `resume=PATH/checkpoints/NAME.ckpt` keeps the file: `resume='...ckpt'`. Overrides without `resume`, and
    `resume=false`, are returned unchanged.
    """
    given = [line for line in overrides if key_of(line) == "resume"]
    rest = [line for line in overrides if key_of(line) != "resume"]
    value = _value(given[-1]) if given else False
    if value is False:
        return Expanded(list(overrides), [])
    if multirun:
        again = "leave it out: a sweep that is started again skips finished jobs and resumes the others"
        return Expanded(rest, [f"{given[-1]}: -m and resume cannot be combined; {again}"])
    has_dir = any(key_of(line) == "hydra.run.dir" for line in rest)
    if value is True:
        lines = [] if has_dir else [f"resume=true: which run? {_HOW}"]
        return Expanded(list(overrides) if has_dir else rest, lines)
    if has_dir:
        return Expanded(rest, [f"{given[-1]}: leave out hydra.run.dir; it follows from resume"])
    return _from_path(Path(value).expanduser(), rest)


def as_value(text: str) -> str:
    """Text as typed after a `=`: quoted if Hydra's grammar would misread it."""
    return text if _PLAIN.fullmatch(text) else quoted(text)


def quoted(text: str) -> str:
    """Text as a quoted value in Hydra's grammar: spaces, `=`, quotes and `${` are preserved."""
    return QuotedString(text=text.replace("${", "\\${"), quote=Quote.single).with_quotes()


def folder_problems(cfg: DictConfig, folder: Path) -> list[str]:
    """Why a single run must not start in its folder: Hydra would overwrite the command line of the run there.

    A run that was stopped before its first checkpoint may be started again with the same command. Raises OmegaConf's
    errors if the configuration is incomplete.
    """
    saved = read_run(folder).get("fingerprint")
    if saved is None:
        return []
    if cfg.resume is False:
        if not holds_work(folder) and saved == fingerprint(cfg):
            return []
        return [f"hydra.run.dir={folder} contains a run: resume it with resume={folder}, or choose another folder"]
    if saved == fingerprint(cfg):
        return []
    return other_run(cfg, folder)


def other_run(cfg: DictConfig, folder: Path) -> list[str]:
    """Why the run in a folder, whose fingerprint differs, cannot continue with this configuration.

    Empty if this is the same run with more rounds.
    """
    try:
        saved: Any = read_yaml(folder / CONFIG)
    except FileProblem:
        saved = None
    longer = lengthening(saved, cfg) if isinstance(saved, dict) else None
    if longer is not None:
        longer += _ended_early(folder, saved["rounds"])
        return [f"resume: the run cannot continue with rounds={cfg.rounds}: {line}" for line in longer]
    now: Any = OmegaConf.to_container(cfg, resolve=True)
    lines = differences(saved, now) if isinstance(saved, dict) else []
    what = "; ".join(lines) or "the saved configuration is missing"
    return [f"resume: {folder} contains another configuration's run; leave out what differs or start a new run: {what}"]


def _ended_early(folder: Path, rounds: int) -> list[str]:
    """A run that an observer ended would have ended there with any number of rounds."""
    try:
        played = read_json(folder / SUMMARY)["rounds"]
    except (FileProblem, KeyError, TypeError):
        return []
    return [] if played == rounds else [f"an observer ended it in round {played} of {rounds}: start a new run"]


def _value(line: str) -> bool | str:
    """The value typed after `resume=`; an existing path, or text that Hydra cannot parse, is used verbatim."""
    raw = line.split("=", 1)[1] if "=" in line else ""
    if raw and Path(raw).expanduser().exists():
        return raw
    try:
        value = OverridesParser.create().parse_override(line).value()
    except HydraException:
        return raw
    return value if isinstance(value, bool | str) else raw


def _from_path(path: Path, rest: list[str]) -> Expanded:
    if not path.exists():
        return Expanded(rest, [f"resume={path}: there is no such folder or file; {_HOW}"])
    folder = _run_folder(path)
    if folder is None:
        return Expanded(rest, [f"resume={path}: {_why_not(path)}; {_HOW}"])
    what = "resume=true" if path.is_dir() else f"resume={quoted(str(path.resolve()))}"
    try:
        saved = _saved(folder, {key_of(line).lstrip("+") for line in rest})
    except FileProblem as error:
        return Expanded(rest, [f"resume={path}: {folder / HYDRA}: {error}"])
    lines = [*saved, *rest, f"hydra.run.dir={quoted(str(folder.resolve()))}", what]
    return Expanded(lines, [], tuple(saved), folder)


def _run_folder(path: Path) -> Path | None:
    candidates = [path] if path.is_dir() else list(path.resolve().parents)[:2]
    return next((folder for folder in candidates if (folder / OVERRIDES).is_file()), None)


def _why_not(path: Path) -> str:
    if (path / SWEEP).is_file():
        return "this is a sweep, not a run: start the sweep's command again, or name one of its jobs' folders"
    return "this is not a run's folder: it has no .hydra folder with the run's command line"


def _saved(folder: Path, again: set[str]) -> list[str]:
    """The lines of the run's own command line, except those whose keys are set `again`."""
    saved = read_yaml(folder / OVERRIDES)
    if not isinstance(saved, list) or not all(isinstance(line, str) for line in saved):
        raise FileProblem(folder / OVERRIDES, "is not a list of settings")
    keys = [(key_of(line).lstrip("+"), line) for line in saved]
    return [line for key, line in keys if key not in _NOT_AGAIN and key not in again]
