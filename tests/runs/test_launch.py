"""A job whose folder another start of its sweep had until now is what that start made of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode
from omegaconf import OmegaConf

from pffdst import launch
from pffdst.core.errors import UserError
from pffdst.runs import jobs


@pytest.mark.parametrize("same", [True, False])
def test_what_another_start_finished_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    folder = tmp_path / "sweep" / "0"
    folder.mkdir(parents=True)
    hydra = SimpleNamespace(
        runtime=SimpleNamespace(output_dir=str(folder)),
        mode=RunMode.MULTIRUN,
        sweep=SimpleNamespace(dir=str(tmp_path / "sweep")),
    )
    monkeypatch.setattr(launch.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(launch, "fingerprint", lambda cfg: "f")
    monkeypatch.setattr(launch, "engine_identity", lambda cfg: "")
    monkeypatch.setattr(launch, "_present_content", lambda cfg: "700 images" if same else "1,400 images")
    monkeypatch.setattr(launch, "print_summary", lambda summary: None)
    real = jobs.previous_attempt

    def and_then_it_ended(*arguments: object) -> jobs.Attempt | None:
        """The first look finds nothing; then the other start ends."""
        monkeypatch.setattr(jobs, "previous_attempt", real)
        jobs.mark(folder, "f", "done", content="700 images")
        (folder / "summary.json").write_text(json.dumps({"last5_acc_global": 0.5}))
        return None

    monkeypatch.setattr(jobs, "previous_attempt", and_then_it_ended)
    cfg = OmegaConf.create({"resume": False})
    if same:
        assert launch.launch(cfg) == 0.5
    else:
        with pytest.raises(UserError, match="contains this job with other data"):
            launch.launch(cfg)
