"""What a W&B agent would start, from the sweep in the docs, is a command line that can be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from pffdst.config.compose import compose
from pffdst.config.overrides import preflight
from pffdst.metrics.names import columns, evaluated_on

ROOT = Path(__file__).resolve().parents[2]
SWEEP = yaml.safe_load((ROOT / "docs/wandb_sweep.yaml").read_text())
FIRST = {
    name: given["value"] if "value" in given else given.get("values", [given.get("min")])[0]
    for name, given in SWEEP["parameters"].items()
}


def command_of(macro: str) -> list[str]:
    """The arguments that W&B's own agent makes of the macro in a sweep's command."""
    utils = pytest.importorskip(
        "wandb.sdk.launch.sweeps.utils", reason="pip install wandb, of a version with its agent inside"
    )
    made: dict[str, Any] = utils.create_sweep_command_args({"args": {k: {"value": v} for k, v in FIRST.items()}})
    return [str(word) for word in made[macro]]


def test_the_program_is_there() -> None:
    assert (ROOT / SWEEP["program"]).is_file()


@pytest.mark.parametrize("macro", ["args", "args_no_hyphens"])
def test_the_agents_command_line_gives_its_values(macro: str) -> None:
    given = command_of(macro)
    assert all(word.startswith("--") for word in given) == (macro == "args")
    cfg = compose(preflight(given, ROOT / "configs"), ROOT / "configs")
    settings = {name: value for name, value in FIRST.items() if name not in ("experiment", "method", "codec")}
    assert {name: OmegaConf.select(cfg, name) for name in settings} == settings
    assert (cfg.method_name, cfg.codec._target_.rpartition(".")[2]) == ("pffdst", "Float32")


def test_the_metric_is_one_that_its_runs_log() -> None:
    assert SWEEP["metric"]["name"] in columns(split=evaluated_on(FIRST["validation_share"]))


def test_a_parameter_that_is_no_setting_is_told() -> None:
    with pytest.raises(Exception, match=r"sparsty: there is no such key; did you mean sparsity"):
        preflight(["--sparsty=0.9"], ROOT / "configs")
