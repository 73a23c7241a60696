"""A finished run's model on a test set: `python -m pffdst evaluate RUN [dataset.KEY=VALUE ...]`.

Accuracy over all samples and per class. The data are the run's own, read again; `dataset.path=...` reads them from
elsewhere, and `dataset=NAME` with its keys uses another data set of the same shape and classes. Classes are matched by
their names, and texts are read with the tokenizer that the run left next to its model. A run with validation_share is
scored on the test set, which it has not seen; --validation scores its validation set. Of other data without a test
split, as a folder of class folders, all samples are scored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table
from torchmetrics.classification import MulticlassAccuracy

from pffdst.cli.train import configs
from pffdst.config.compose import session
from pffdst.config.constructors import did_you_mean, key_problems, locate
from pffdst.config.trust import node_problems
from pffdst.core.errors import UserError
from pffdst.core.inputs import Inputs, TokenInputs
from pffdst.core.words import one_line
from pffdst.data.dataset import Dataset, DataSource
from pffdst.metrics.evaluate import Evaluation, Evaluator
from pffdst.metrics.units import format_percent
from pffdst.models.saved import ModelCard, SavedModel, path_of
from pffdst.runs.files import CONFIG, FileProblem, read_text, read_yaml
from pffdst.runs.foreign import foreign

__all__ = ["evaluate", "main"]


def main(argv: Sequence[str] | None = None, console: Console | None = None) -> int:
    """Prints the table; returns 2 if there is no such model or the data do not fit it."""
    parser = argparse.ArgumentParser(prog="python -m pffdst evaluate", description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("overrides", nargs="*", metavar="dataset...", help="dataset settings")
    parser.add_argument("--average", action="store_true", help="use the server average instead of the last model")
    parser.add_argument("--config-dir", type=Path, help="your own configurations, which may name the run's data")
    parser.add_argument("--validation", action="store_true", help="use the run's validation set, not the test set")
    given = parser.parse_args(argv)
    console = Console() if console is None else console
    try:
        saved = SavedModel.read(path_of(given.run, average=given.average))
        data = _data(given.run, saved.card, given.overrides, given.config_dir, validation=given.validation)
        part = "the validation set" if given.validation else "the test set"
        if not len(data.test):
            data, part = _whole(data, given.run, given.overrides), f"all {data.inputs.noun}"
        data = _numbered_alike(saved.card, data)
        scores = evaluate(saved, data)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    console.print(_table(saved, data, scores, part))
    return 0


def evaluate(saved: SavedModel, data: Dataset) -> Evaluation:
    """Scores the model on the data's test set; `metrics` contains `class_acc/LABEL` for each class.

    Raises:
        UserError: the samples' shape or the number of classes differs from the model's.
    """
    card = saved.card
    if not card.inputs.fits(data.inputs) or data.classes != card.classes:
        raise UserError(
            f"the model takes {_kind(card.inputs)} and distinguishes {card.classes} classes, but {data.name} has "
            f"{_kind(data.inputs)} and {data.classes} classes: name the data it was trained for, e.g. dataset.path=..."
        )
    owner = torch.zeros(len(data.test), dtype=torch.int64)
    by_class = {"class_acc": MulticlassAccuracy(card.classes, average="none")}
    evaluator = Evaluator(data.test, owner, 1, card.inputs, channels_last=False, metrics=by_class)
    return evaluator.evaluate(saved.tried().network)


def _whole(data: Dataset, run: Path, overrides: Sequence[str]) -> Dataset:
    """Data without a test split, with all samples as the test set. UserError if no override names other data."""
    if overrides:
        return replace(data, test=data.train)
    raise UserError(
        f"{run}: its data, {data.name}, have no test split; --validation scores the run's validation set, if it had "
        f"one, and dataset.path=FOLDER other {data.inputs.noun}"
    )


def _numbered_alike(card: ModelCard, data: Dataset) -> Dataset:
    """The data with the model's own numbers of the classes. UserError if they have others than the model.

    Classes are the same if they have the same name; where one side only has numbers, if they have the same number.
    """
    mine, theirs = card.class_names, data.class_names
    plain = tuple(map(str, range(card.classes)))
    if mine in ((), plain, theirs) or theirs == plain:
        return data
    try:
        return data.numbered_as(mine)
    except UserError as error:
        raise UserError(
            f"the model distinguishes other classes. {error}; give the classes the model's names"
        ) from error


def _data(run: Path, card: ModelCard, overrides: Sequence[str], own: Path | None, *, validation: bool) -> Dataset:
    """The run's data set under the overrides. Only a class that an installed configuration names is built."""
    folder = run if run.is_dir() else run.parent
    try:
        cfg = _described(read_yaml(folder / CONFIG))
    except (FileProblem, OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{folder}: its config.yaml does not describe the data: {error}") from error
    odd = [line for line in overrides if line.partition("=")[0].partition(".")[0] != "dataset" or "=" not in line]
    if odd:
        raise UserError(f"{odd[0]}: only dataset settings are allowed here; write e.g. dataset.path=FOLDER")
    problems = node_problems(OmegaConf.to_container(cfg.dataset), [configs(), *([own] if own is not None else ())])
    trusted = "; if you trust it, name your configuration folder that does: --config-dir DIR"
    _refuse([f"{folder / CONFIG}: {why}{trusted}" for why in problems])
    node = _node(cfg.dataset, overrides)
    _refuse(key_problems("dataset", node, locate(str(node._target_))))
    inputs = card.inputs.with_files(lambda name: read_text(folder / name) if (folder / name).exists() else "")
    data = _source(node, folder).load_for(cfg.seed, inputs)
    if not validation:
        return data
    if cfg.validation_share == 0:
        raise UserError(f"{run} had no validation set (validation_share=0): leave --validation out")
    return data.with_validation(cfg.validation_share, cfg.seed)


def _source(node: DictConfig, folder: Path) -> DataSource:
    """Builds the data source. UserError if the node, whose values may be of any kind, does not describe one."""
    try:
        source: DataSource = instantiate(node)
        problems = source.problems()
    except (InstantiationException, TypeError, ValueError) as error:
        why = one_line(error.__cause__ or error, 300)
        raise UserError(
            f"{folder / CONFIG}: it does not describe a usable data set ({why}); choose one, e.g. dataset=digits"
        ) from error
    _refuse(problems)
    return source


def _described(found: Any) -> DictConfig:
    """The contents of config.yaml. ValueError if it does not say what the data are and how they were drawn."""
    kinds = {"dataset": (dict,), "seed": (int,), "validation_share": (int, float)}
    given = {"validation_share": 0.0, **found} if isinstance(found, dict) else {}
    wrong = [name for name, kind in kinds.items() if not isinstance(given.get(name), kind)]
    if wrong or "_target_" not in given["dataset"]:
        raise ValueError(f"it has no valid {', '.join(wrong) or 'dataset._target_'}")
    return OmegaConf.create(given)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise UserError("\n".join(problems))


def _node(saved: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The dataset node under the overrides; another option, `dataset=NAME`, is composed as for a run."""
    chosen = [line for line in overrides if line.startswith("dataset=")]
    if chosen:
        with session(configs()) as opened:
            name, options = chosen[-1].partition("=")[2], opened.options("dataset")
            if name not in options:
                close = did_you_mean(name, options)
                raise UserError(f"{chosen[-1]}: no such option; {close} options: {', '.join(options)}")
            node = opened.compose([chosen[-1]]).cfg.dataset
        saved = OmegaConf.create(OmegaConf.to_container(node, resolve=True))  # type: ignore[assignment]
    set_to = [line.removeprefix("dataset.") for line in overrides if line not in chosen]
    return OmegaConf.merge(saved, OmegaConf.from_dotlist(set_to))  # type: ignore[return-value]


def _table(saved: SavedModel, data: Dataset, scores: Evaluation, part: str) -> Table:
    title = f"{saved.card.target.rpartition('.')[2]} on {part} of {data.name}"
    table = Table(title=foreign(title), title_justify="left", min_width=len(title))
    table.add_column("class", overflow="fold")
    for name in (data.inputs.noun, "accuracy"):
        table.add_column(name, justify="right")
    counts = torch.bincount(data.test.labels, minlength=data.classes).tolist()
    for label, count in enumerate(counts):
        accuracy = format_percent(scores.metrics[f"class_acc/{label}"]) if count else "-"
        table.add_row(foreign(saved.card.name_of(label)), f"{count:,}", accuracy)
    table.add_section()
    table.add_row("all", f"{sum(counts):,}", format_percent(scores.acc_global))
    return table


def _kind(inputs: Inputs) -> str:
    known = f" in {inputs.vocabulary:,} tokens" if isinstance(inputs, TokenInputs) else ""
    return f"{inputs.noun} of {'x'.join(map(str, inputs.shape))}{known}"
