"""The texts of `--help` that are not Hydra's: examples and one line per setting."""

from __future__ import annotations

import dataclasses
import re
import shlex

from pffdst.config.schema import RootConfig
from pffdst.core.program import command_line

__all__ = ["examples", "settings"]

_TRAIN = (
    ("", "PFFDST on digits"),
    ("method=feddst sparsity=0.95 seed=1", "another method; set any setting below by its name"),
    ("experiment=lenet_cifar10", "a configuration from the paper"),
    ("readjust=static freeze=none", "ablations: other options than the method's own"),
    ("readjust.schedule.interval=5 partition.alpha=1", "a key of the chosen option"),
    ("logger=[csv,wandb]", "several loggers; logger=null for the CSV alone"),
    ("-m method=pffdst,feddst seed=0,1,2", "a sweep: every combination; -m sweep=NAME for a saved one"),
    ("search=digits_lr", "a search: Optuna proposes one trial after another"),
    ("resume=logs/runs/DATE/RUN", "resume a stopped run with its own command line"),
    ("--cfg job --resolve", "show the configuration and run nothing"),
)
_OTHERS = (
    ("report", "logs -o report.html", "compare runs on one page"),
    ("status", "", "show what is done, running, failed, stopped or missing"),
)


def examples() -> str:
    """Command lines in the form in which this program was started, and what they do."""
    train = [(command_line("train", shlex.split(typed)), what) for typed, what in _TRAIN]
    lines = [(re.sub(r"^python .*?train\.py", "python train.py", line), what) for line, what in train]
    lines += [(command_line(command, shlex.split(typed)), what) for command, typed, what in _OTHERS]
    width = max(len(typed) for typed, _ in lines)
    return "\n".join(f"  {typed.replace(chr(39), ''):<{width}}  {what}" for typed, what in lines)


def settings() -> str:
    """One line per setting: its name and meaning."""
    told = [
        (field.name, field.metadata["help"]) for field in dataclasses.fields(RootConfig) if "help" in field.metadata
    ]
    width = max(len(name) for name, _ in told)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in told)
