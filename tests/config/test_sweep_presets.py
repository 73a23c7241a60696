"""Every job of every shipped grid can be run, as far as can be told without its data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from pffdst.config.check import problems_of
from pffdst.config.compose import Composed, Session, session
from pffdst.config.identity import fingerprint
from pffdst.config.ranges import range_problems
from pffdst.config.sweeps import jobs_in

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SWEEPS = sorted(path.stem for path in (CONFIGS / "sweep").glob("*.yaml"))
PAPER = [name for name in SWEEPS if name.startswith(("resnet18", "lenet"))]


@pytest.fixture
def opened() -> Iterator[Session]:
    with session(CONFIGS) as found:
        yield found


def grid(name: str) -> list[tuple[str, ...]]:
    params = OmegaConf.load(CONFIGS / "sweep" / f"{name}.yaml").hydra.sweeper.params
    return jobs_in([f"{key}={value}" for key, value in params.items()])


class Grids:
    """Composes the options once for all jobs that share them; single values are then set as Hydra sets them."""

    def __init__(self, opened: Session) -> None:
        self.opened = opened
        self.groups = set(opened.groups())
        self.bases: dict[tuple[str, ...], Composed] = {}

    def configure(self, job: tuple[str, ...]) -> Composed:
        options = tuple(line for line in job if line.split("=")[0] in self.groups)
        if options not in self.bases:
            self.bases[options] = self.opened.compose(options)
        base = self.bases[options]
        cfg: DictConfig = copy.deepcopy(base.cfg)
        for line in job:
            if line not in options:
                [(key, value)] = OmegaConf.from_dotlist([line]).items()
                OmegaConf.update(cfg, str(key), value, merge=True)
        return Composed(cfg, base.hydra, base.choices)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_job_can_be_run_and_is_another(name: str, opened: Session) -> None:
    """A job's seeds are looked at once: of a seed only its range counts."""
    grids, jobs = Grids(opened), grid(name)
    seedless = {tuple(line for line in job if not line.startswith("seed=")) for job in jobs}
    runs = [grids.configure(job) for job in sorted(seedless)]
    assert {line for run in runs for line in problems_of(run.cfg, run.choices)} == set()
    assert len({fingerprint(run.cfg) for run in runs}) == len(seedless)
    assert len(set(jobs)) == len(jobs) > 1
    last = grids.configure(jobs[-1])
    last.cfg.label = (anew := opened.compose(jobs[-1]).cfg).label
    assert anew == last.cfg, "single values are set otherwise than Hydra does"
    assert range_problems(last.cfg) == []


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_grids_have_three_seeds_and_its_allocation(name: str) -> None:
    jobs = grid(name)
    assert {line for job in jobs for line in job if line.startswith("seed=")} == {"seed=0", "seed=1", "seed=2"}
    assert ("allocation=erk_feddst" in jobs[0]) == (not name.endswith("dense"))


def test_budgets_are_equal_for_the_methods_compared() -> None:
    """R of PFFDST is 7/4 of FedDST's: it sends (1-s)/2 of the weights, half as many again in a quarter of a stage."""
    for name in ("resnet18_cifar10", "resnet18_cifar100", "lenet_cifar10"):
        rounds = [
            sorted({int(line[7:]) for job in grid(sweep) for line in job if line.startswith("rounds=")})
            for sweep in (name, f"{name}_baselines")
        ]
        assert [4 * r for r in rounds[0]] == [7 * r for r in rounds[1]]
