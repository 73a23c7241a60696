"""`pffdst deploy`: what is refused, in one message each and before anything is written."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs flwr: pip install 'pffdst[deploy]'")

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import compose
from pffdst.core.program import DEPLOYED
from pffdst.deploy import commands
from pffdst.deploy.__main__ import main
from pffdst.deploy.flower import FlowerEngine

LONG = ".".join(["a" * 60] * 3)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rounds=x"], "rounds=x: expected a whole number"),
        (["methd=1"], "did you mean method?"),
        (["dataset=nope"], "dataset=nope: no such option"),
        (["dataset=parquet"], "dataset.path"),
        (["sparsity=7", "lr=0"], "2 problems in the configuration"),
    ],
)
@pytest.mark.parametrize("command", ["samples", "demo"])
def test_overrides_are_checked_as_those_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, overrides: list[str], said: str
) -> None:
    folder = ["--folder", str(tmp_path / "new")] if command == "demo" else [str(tmp_path / "new")]
    assert main([command, *folder, *overrides]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_samples_of_a_configuration_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "configs" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nclients: 3\ncohort: 2\n")
    monkeypatch.chdir(tmp_path)
    assert main(["samples", "new", "experiment=mine"]) == 0
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_samples_of_two_partitions_do_not_mix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samples", str(tmp_path), "clients=4", "cohort=2"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 4
    assert main(["samples", str(tmp_path), "clients=2", "cohort=2"]) == 2
    assert "client-0.parquet already exists" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "host", ["", "https://server.example", "127.0.0.1:8000", "b\u00fccher.example", "a b", "a" * 64]
)
def test_a_certificate_is_for_a_name_or_an_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], host: str
) -> None:
    assert main(["certificates", str(tmp_path / "keys"), "--host", host]) == 2
    assert "expected a DNS name or an address" in capsys.readouterr().err
    assert not (tmp_path / "keys").exists()


@pytest.mark.parametrize("host", ["server.example", "localhost", "127.0.0.1", "::1", "*.example.org", LONG])
def test_names_and_addresses_stand_in_the_certificate(tmp_path: Path, host: str) -> None:
    assert main(["certificates", str(tmp_path), "--host", host]) == 0
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    (own,) = certificate.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert str(own.value) == host


def test_without_flower_its_programs_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "SEARCHED", "/nowhere")
    assert main(["run", "here", "rounds=4"]) == 2
    assert "flwr is not installed: pip install 'pffdst[deploy]'" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    assert Path(commands.program("flwr")).is_file(), "beside this Python, whether its environment is active or not"


class Flower:
    """Flower's command line, which shows nothing of a run and then says how it ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shown: int, ending: dict[str, str]) -> None:
        self.asked: list[str] = []
        self.ending = ending
        monkeypatch.setattr(commands.subprocess, "call", lambda words: shown)
        monkeypatch.setattr(commands, "flwr", self.answer)

    def answer(self, *words: str) -> str:
        if words[0] == "run":
            self.asked = tomllib.loads(Path(words[4]).read_text())["overrides"].split()
            return json.dumps({"success": True, "run-id": 7})
        return json.dumps({"success": True, "runs": [self.ending]})


def test_a_run_that_flower_ended_says_why_and_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Flower(monkeypatch, 0, {"status": "finished:completed"})
    assert main(["run", "here", "rounds=4"]) == 0
    assert capsys.readouterr().err == ""
    Flower(monkeypatch, 0, {"status": "finished:failed", "status-details": "No heartbeat received"})
    assert main(["run", "here", "rounds=4"]) == 1
    said = "The run did not complete: Flower says failed, No heartbeat received. If it has a checkpoint, resume=true"
    assert said in capsys.readouterr().err
    Flower(monkeypatch, 3, {})
    assert main(["run", "here", "rounds=4"]) == 3
    assert "output ended (flwr log: 3). If it has a checkpoint, resume=true" in capsys.readouterr().err


def test_flags_of_hydra_go_to_the_run_and_a_sweep_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flower = Flower(monkeypatch, 0, {"status": "finished:completed"})
    given = ["--config-dir", "/own", "method=pffdst", "--lr=0.1"]
    assert main(["run", "here", *given]) == 0
    assert flower.asked == given
    assert main(["run", "here", "-m", "seed=0,1"]) == 2
    assert "a deployed run is one run" in capsys.readouterr().err


def test_a_deployed_run_does_not_simulate(monkeypatch: pytest.MonkeyPatch, config_dir: Path) -> None:
    cfg = compose(["engine=fabric"], config_dir)
    check(cfg)
    monkeypatch.setattr(sys, "argv", [DEPLOYED])
    with pytest.raises(ConfigError, match="simulates the clients on this machine: leave it out to train on the nodes"):
        check(cfg)


def test_an_answer_s_limit_is_checked_with_the_other_settings() -> None:
    with pytest.raises(ValueError, match=r"engine\.max_bytes` to be above 0 or null, but got 0"):
        FlowerEngine(max_bytes=0)
