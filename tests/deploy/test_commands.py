"""`pffdst deploy`: what is refused, in one message each and before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs flwr: pip install 'pffdst[deploy]'")

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from pffdst.deploy import commands
from pffdst.deploy.__main__ import main

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
