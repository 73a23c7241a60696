"""The comparison as a W&B workspace: `python -m pffdst dashboard ENTITY/PROJECT`.

Accuracy against measured bytes, bytes by part, FLOPs and masks, for all runs of a project. Runs that differ only in
their seed are drawn as one line with a band. --dry-run prints the panels as JSON and needs no login.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, final

from pffdst.core.errors import UserError, needs
from pffdst.core.program import command_line
from pffdst.core.words import one_line
from pffdst.cost.ledger import Ledger
from pffdst.loggers.wandb import LOGIN_HINT, login_exists
from pffdst.metrics import names

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

__all__ = ["GROUPED_BY", "SECTIONS", "Panel", "main", "spec", "workspace"]

GROUPED_BY = ("label", "dataset.name", "sparsity", "group_key")
"""Keys of a run's configuration; runs that agree in all of them are drawn as one line over their seeds.

The first ones are to be read. `group_key` tells apart what differs in anything but the seed.
"""


@final
@dataclass(frozen=True)
class Panel:
    """One plot: lines of `y` over `x`, bars of the last `y`, or points of the last `y[0]` at the last `x`."""

    title: str
    kind: Literal["lines", "bars", "points"]
    y: tuple[str, ...]
    x: str = ""
    x_title: str = ""


def _over_bytes(title: str, accuracy: str) -> Panel:
    return Panel(title, "lines", (names.by_bytes(accuracy),), names.COST_BYTES, "measured bytes, up and down")


def _over_rounds(title: str, *metrics: str) -> Panel:
    return Panel(title, "lines", metrics, names.ROUND, "round")


def _parts(way: str) -> tuple[str, ...]:
    return tuple(f"cost/{way}/{part}" for part in Ledger.PARTS)


SECTIONS: dict[str, tuple[Panel, ...]] = {
    "Accuracy against bytes": (
        _over_bytes("server average, pooled test set", names.EMA_ACC_GLOBAL),
        _over_bytes("server average, mean over clients", names.EMA_ACC_CLIENT_MEAN),
        _over_bytes("last model, pooled test set", names.ACC_GLOBAL),
        Panel(
            "one point per run: its bytes and its server average",
            "points",
            (names.EMA_ACC_GLOBAL,),
            names.COST_BYTES,
            "measured bytes, up and down",
        ),
    ),
    "What it cost": (
        Panel("bytes up, by part", "bars", _parts("up")),
        Panel("bytes down, by part", "bars", _parts("down")),
        Panel("FLOPs of training", "bars", (names.COST_FLOPS,)),
        _over_rounds("measured bytes and the papers' formula", names.COST_BYTES, names.COST_PAPER_BYTES),
    ),
    "Over rounds": (
        _over_rounds("mean of the last 5 evaluations", names.last5_of(names.ACC_GLOBAL)),
        _over_rounds("training loss", names.TRAIN_LOSS),
        _over_rounds("alive, trainable and frozen weights", names.ALIVE, names.TRAINABLE, names.FROZEN),
        _over_rounds("weights pruned and grown", names.PRUNED, names.GROWN),
        _over_rounds("updates left out", names.ROUND_REJECTED),
        _over_rounds("seconds per round", names.ROUND_SECONDS),
    ),
}


def spec() -> dict[str, object]:
    """The workspace as plain values."""
    sections = {name: [asdict(panel) for panel in panels] for name, panels in SECTIONS.items()}
    return {"grouped_by": list(GROUPED_BY), "sections": sections}


def workspace(entity: str, project: str, name: str) -> ws.Workspace:
    """The workspace as W&B objects; nothing is sent."""
    try:
        import wandb_workspaces.workspaces as ws
    except ModuleNotFoundError as error:
        raise needs("a workspace", error) from error

    sections = [
        ws.Section(name=title, panels=[_panel(panel) for panel in panels], is_open=True)
        for title, panels in SECTIONS.items()
    ]
    grouped = ws.RunsetSettings(groupby=[ws.Config(key) for key in GROUPED_BY])
    return ws.Workspace(entity=entity, project=project, name=name, sections=sections, runset_settings=grouped)


def _panel(panel: Panel) -> Any:
    from wandb_workspaces.reports.v2 import BarPlot, LinePlot, ScatterPlot, SummaryMetric

    if panel.kind == "bars":
        return BarPlot(title=panel.title, metrics=list(panel.y), orientation="h")
    if panel.kind == "points":
        return ScatterPlot(title=panel.title, x=SummaryMetric(panel.x), y=SummaryMetric(panel.y[0]))
    return LinePlot(
        title=panel.title,
        x=panel.x,
        y=list(panel.y),
        title_x=panel.x_title,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Creates the workspace and prints its address, or prints its panels; returns 2 if that fails."""
    parser = argparse.ArgumentParser(prog=command_line("dashboard"), description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("project", nargs="?", metavar="ENTITY/PROJECT", help="as in https://wandb.ai/ENTITY/PROJECT")
    parser.add_argument("--name", default="PFFDST: accuracy against bytes", help="name of the workspace's view")
    parser.add_argument("--dry-run", action="store_true", help="print the panels as JSON and send nothing")
    args = parser.parse_args(argv)
    if args.dry_run:
        print(json.dumps(spec(), indent=2))
        return 0
    try:
        print(_made(args.project, args.name))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _made(project: str | None, name: str) -> str:
    """Creates a new workspace and returns its address."""
    entity, _, bare = (project or "").partition("/")
    if not entity or not bare or "/" in bare:
        raise UserError(
            f"Expected ENTITY/PROJECT, as in the address of your W&B project, but got {project or 'nothing'}; "
            f"write e.g. {command_line('dashboard', ['my-team/pffdst'])}"
        )
    if not _has_login():
        raise UserError(
            f"No W&B login was found: {LOGIN_HINT}, upload offline runs with "
            "`find logs -type d -name 'offline-run-*' -exec wandb sync {} +`, then run this command again; "
            "--dry-run shows the panels without a login"
        )
    try:
        return str(workspace(entity, bare, name).save().url)
    except UserError:
        raise
    except Exception as error:  # whatever W&B's client raises for an unknown or read-only project
        raise UserError(f"W&B rejected the workspace for {project}: {one_line(error)}") from error


def _has_login() -> bool:
    try:
        return login_exists("online")
    except ModuleNotFoundError as error:
        raise needs("a workspace", error) from error
