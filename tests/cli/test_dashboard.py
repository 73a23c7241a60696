"""Every name the W&B workspace draws is one that runs write."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from pffdst.build import build
from pffdst.cli.dashboard import GROUPED_BY, SECTIONS, main, workspace
from pffdst.config.compose import compose
from pffdst.config.identity import but_for_the_seed
from pffdst.launch import recorded_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def offline_run() -> ModuleType:
    path = ROOT / "tests" / "loggers" / "offline_run.py"
    spec = importlib.util.spec_from_file_location("offline_run", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run as W&B itself wrote it down, offline."""
    folder = tmp_path_factory.mktemp("run")
    settings = ["experiment=debug", "rounds=4", "logger=wandb", "logger.wandb.mode=offline", "engine.exact=true"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_MODE", raising=False)
        recorded_run(build(compose(settings, ROOT / "configs"), folder, "test"), None, "test")
    return folder


def test_every_metric_of_a_panel_is_in_wandbs_own_file(run: Path, offline_run: ModuleType) -> None:
    logged = {name for row in offline_run.read_offline_history(run) for name in row}
    drawn = {name for panels in SECTIONS.values() for panel in panels for name in (*panel.y, panel.x) if name}
    assert drawn <= logged, drawn - logged


def test_lines_are_drawn_over_the_axis_their_metric_is_logged_with(run: Path, offline_run: ModuleType) -> None:
    axes = {
        record.metric.name or record.metric.glob_name: record.metric.step_metric
        for record in offline_run.read_records(run)
        if record.WhichOneof("record_type") == "metric"
    }
    for panel in (panel for panels in SECTIONS.values() for panel in panels if panel.kind == "lines"):
        assert {axes.get(name) or axes["*"] for name in panel.y if name not in axes or axes[name]} <= {panel.x}, panel


def test_runs_are_grouped_by_keys_that_every_configuration_has(run: Path) -> None:
    cfg = OmegaConf.load(run / "config.yaml")
    assert [key for key in GROUPED_BY if key != "group_key" and OmegaConf.select(cfg, key) is None] == []
    assert "seed" not in GROUPED_BY


def test_only_runs_that_differ_in_their_seed_alone_are_one_line() -> None:
    def key(*overrides: str) -> str:
        return but_for_the_seed(compose(["experiment=debug", *overrides], ROOT / "configs"))

    assert key() == key("seed=5") == key("tags=[x]") == key("logger=csv")
    others = ["lr=0.3", "clients=9", "validation_share=0.2", "readjust.ratio=0.2", "codec=int8", "sparse_init=true"]
    assert len({key(), *map(key, others)}) == 1 + len(others)


# wandb-workspaces itself still uses what pydantic has deprecated
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_what_would_be_sent_holds_every_panel() -> None:
    sent = workspace("somebody", "something", "a view")._to_model().model_dump_json(by_alias=True)
    for panel in (panel for panels in SECTIONS.values() for panel in panels):
        assert json.dumps(panel.title) in sent
        for name in panel.y:
            assert name in sent
    for key in GROUPED_BY:
        first, _, rest = key.partition(".")
        assert f'"{first}.value{"." if rest else ""}{rest}"' in sent, key


def test_a_dry_run_prints_the_panels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["sections"]) == list(SECTIONS)
    assert found["sections"]["What it cost"][0]["y"][0] == "cost/up/header"


@pytest.mark.parametrize(
    ("argv", "words"),
    [([], "got nothing"), (["pffdst"], "got pffdst"), (["a/b/c"], "ENTITY/PROJECT"), (["a/b"], "wandb login")],
)
def test_what_is_missing_is_told(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pffdst.cli.dashboard.login_exists", lambda mode: False)
    assert main(argv) == 2
    assert words in capsys.readouterr().err


def test_a_refusal_of_wandbs_is_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        def save(self) -> None:
            raise RuntimeError("project not found\nsomewhere")

    monkeypatch.setattr("pffdst.cli.dashboard.login_exists", lambda mode: True)
    monkeypatch.setattr("pffdst.cli.dashboard.workspace", lambda *words: Refusing())
    assert main(["a/b"]) == 2
    assert capsys.readouterr().err == "W&B rejected the workspace for a/b: project not found somewhere\n"
