"""A real federation on loopback, TLS and keys included: one run on it, and who is not let in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs flwr: pip install 'pffdst[deploy]'")

import psutil

from pffdst.config.compose import compose
from pffdst.deploy.keys import make_node_key
from pffdst.deploy.local import Federation
from pffdst.deploy.samples import write_samples

RUN = ("method=pffdst", "clients=2", "cohort=2", "rounds=4", "eval_every=4", "logger=csv", "batch_size=32")


def refused(federation: Federation, folder: Path) -> dict[str, str]:
    """Starts three nodes that are not to be let in; what each says when it gives up."""
    make_node_key(folder / "keys" / "unknown")
    trusting = ["--root-certificates", str(federation.certificates.ca)]
    once, nothing = ["--max-retries", "0"], {"data": "none", "state": "none"}
    federation.start_node("no key", None, nothing, [*trusting, *once])
    federation.start_node("unknown key", folder / "keys" / "unknown", nothing, [*trusting, *once])
    federation.start_node("plain text", None, nothing, ["--insecure", *once])
    said = {}
    for name in ("no key", "unknown key", "plain text"):
        assert federation.processes[name].wait(60) != 0
        said[name] = federation.log(name).read_text()
    return said


@pytest.mark.timeout(240)
def test_a_federation_trains_the_simulated_model_and_lets_nobody_else_in(tmp_path: Path, config_dir: Path) -> None:
    files = write_samples(compose(RUN, config_dir), tmp_path / "samples")
    with Federation(tmp_path) as federation:
        for client, file in enumerate(files):
            name = f"client-{client}"
            settings = {"data": str(file), "state": str(tmp_path / f"state-{client}")}
            federation.start_node(name, federation.register(name), settings)
        with federation.run([*RUN, f"hydra.run.dir={tmp_path / 'run'}", "engine.min_clients=2"]) as process:
            said = refused(federation, tmp_path)
            output = process.stdout.read() if process.stdout else ""
        assert process.returncode == 0, output[-3000:]
        with federation.run(["sparsity=7", f"hydra.run.dir={tmp_path / 'bad'}"]) as process:
            refusal = process.stdout.read() if process.stdout else ""
        assert process.returncode == 1, refusal[-3000:]
        assert "1 problem in the configuration" in refusal
        groups = {started.pid for started in federation.processes.values()}  # each leads its own
    assert (tmp_path / "run" / "summary.json").exists(), output[-3000:]
    deployed = json.loads((tmp_path / "run" / "summary.json").read_text())
    command = [sys.executable, "-m", "pffdst", "train", *RUN, "engine.workers=0", f"hydra.run.dir={tmp_path / 'here'}"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    simulated = json.loads((tmp_path / "here" / "summary.json").read_text())
    for key in ("model_sha256", "bytes_up", "bytes_down"):
        assert deployed[key] == simulated[key]
    assert "All SuperNodes must be registered" in said["no key"]
    assert "Failed to activate SuperNode" in said["unknown key"]
    assert "Failed to initialize the connection" in said["plain text"]
    living = [p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE]
    assert not [p.pid for p in living if p.pid > 1 and _group(p.pid) in groups]


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
