"""Makes what the race needs in one folder: the peers' virtual environments, and the work that all of them do.

    python benchmarks/peers/setup.py HOME [--data FOLDER]

HOME gets `v_pfl`, `v_flwr`, `v_blazefl` (each with a torch of its own, about 1 GB; an environment that is there is
left alone) and `work.npz`: images, shares and cohorts of the product's experiment lenet_cifar10. BlazeFL needs Python
3.12, by the name of python3.12 or as PYTHON312 says; where there is none it is left out, which is said.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pffdst.build import parts
from pffdst.config.compose import compose
from pffdst.core.inputs import ImageInputs
from pffdst.core.seeding import generator_for
from pffdst.data.samples import ImageSet
from pffdst.methods.participation import Population, Uniform

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 60
# torch is the same everywhere, so that no peer wins or loses by it
ENVIRONMENTS = {
    "v_pfl": (sys.executable, ["pfl==0.6.0", "psutil"]),
    "v_flwr": (sys.executable, ["flwr[simulation]==1.42.0"]),
    "v_blazefl": ("python3.12", ["blazefl==2.0.3", "tqdm"]),
}


def environment(home: Path, name: str, torch_version: str) -> str:
    """Makes one environment; what is to be said of it."""
    python, packages = ENVIRONMENTS[name]
    found, folder = (
        shutil.which(os.environ.get("PYTHON312", python) if python != sys.executable else python),
        home / name,
    )
    if (folder / "ready").exists():
        return f"{name}: is there"
    if found is None:
        return f"{name}: left out, there is no {python} here"
    try:
        subprocess.run([found, "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"torch=={torch_version}", "numpy", *packages], check=True)
    except subprocess.CalledProcessError as error:
        return f"{name}: left out, {error}"
    (folder / "ready").touch()
    return f"{name}: made"


def work(home: Path, data: Path) -> str:
    """Writes work.npz."""
    cfg = compose(["experiment=lenet_cifar10", "method=fedavg", f"dataset.path={data}"], ROOT / "configs")
    made = parts(cfg)
    setup, train, test, inputs = made.setup, made.dataset.train, made.dataset.test, made.dataset.inputs
    assert isinstance(train, ImageSet)
    assert isinstance(test, ImageSet)
    assert isinstance(inputs, ImageInputs)
    population = Population(setup.clients, setup.samples)
    cohorts = [Uniform().cohort(t, population, cfg.cohort, generator_for(cfg.seed, "cohort", t)) for t in range(ROUNDS)]
    own = [np.asarray(setup.indices(client)) for client in range(setup.clients)]
    content: dict[str, Any] = {
        "images": train.images.numpy(),
        "labels": train.labels.numpy(),
        "timages": test.images.numpy(),
        "tlabels": test.labels.numpy(),
        "mean": np.array(inputs.mean),
        "std": np.array(inputs.std),
        "lens": np.array([len(indices) for indices in own]),
        "idx": np.concatenate(own),
        "cohorts": np.array(cohorts),
    }
    np.savez(home / "work.npz", **content)
    return f"work.npz: {len(own)} clients, {sum(map(len, own)):,} samples, {ROUNDS} cohorts of {cfg.cohort}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="CIFAR-10 as parquet")
    chosen = parser.parse_args()
    home = chosen.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    print(work(home, chosen.data.resolve()), flush=True)
    import torch

    for name in ENVIRONMENTS:
        print(environment(home, name, torch.__version__.partition("+")[0]), flush=True)


if __name__ == "__main__":
    main()
