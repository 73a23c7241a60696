"""Plays any network in whole runs and holds them to each other: one digest, whoever trains the clients.

    python -m tests.every_network [--alone] [NAME ...]

plays the whole zoo and torchvision's classifiers, 2 ranks among the ways unless it is to stay alone, and prints a line
for each; the tests play some of them.
"""

from __future__ import annotations

import functools
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, open_dict

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.core.inputs import ImageInputs
from pffdst.data.dataset import Dataset, DataSource
from pffdst.data.samples import ImageSet
from pffdst.data.sources.digits import DigitsSource
from pffdst.experiment import Experiment
from pffdst.models.saved import SavedModel
from pffdst.runs import checkpoint
from tests.warm import WarmPython
from tests.zoo import TORCHVISION, ZOO

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["logger=csv", "rounds=6", "clients=5", "cohort=3", "local_epochs=1", "batch_size=16", "lr=0.02"]
SMALL += ["readjust.schedule.interval=1", "eval_every=2", "sparsity=0.8"]
WAYS = {
    "workers=0": ["engine.workers=0"],
    "workers=2": ["engine.workers=2"],
    "workers=3": ["engine.workers=3"],
    "exact": ["engine.exact=true"],
    "trainer": ["engine=trainer"],
    "batched": ["engine=batched", "engine.device=cpu", "engine.channels_last=false"],
}


@final
class FewDigits(DataSource):
    """A part of the digits, in as many channels and as many times larger as a network wants them."""

    def __init__(self, samples: int = 100, channels: int = 1, times: int = 1, name: str = "digits") -> None:
        self.samples, self.channels, self.times, self.name = samples, channels, times, name

    def load(self, seed: int) -> Dataset:
        whole = DigitsSource(self.name, 1, 8, 10, (0.3053,), (0.3759,), test_share=0.2).load(seed)
        few = [self._few(images) for images in (whole.train, whole.test)]
        form = whole.inputs
        assert isinstance(form, ImageInputs)
        shape = (self.channels, few[0].images.shape[2], few[0].images.shape[3])
        inputs = ImageInputs(shape, self.channels * form.mean, self.channels * form.std)
        return replace(whole, train=few[0], test=few[1], inputs=inputs)

    def _few(self, images: ImageSet) -> ImageSet:
        pixels = images.images[: self.samples].repeat(1, self.channels, 1, 1)
        return ImageSet(F.interpolate(pixels, scale_factor=self.times).contiguous(), images.labels[: self.samples])

    def problems(self, facts: Any = None) -> list[str]:
        return []


def configuration(name: str, way: Sequence[str]) -> DictConfig:
    """That of a run of a network of the zoo, or of torchvision."""
    own = next((animal.settings for animal in ZOO if animal.name == name), ())
    cfg = compose([*SMALL, *own, *way], ROOT / "configs")
    torchvisions = name in TORCHVISION
    data = {"samples": 60, "channels": 3, "times": 4} if torchvisions else {"samples": 160}
    with open_dict(cfg):
        cfg.model = {"_target_": f"tests.zoo.{'classifier' if torchvisions else name}"}
        if torchvisions:
            cfg.model.name = name
        cfg.dataset = {"_target_": f"{FewDigits.__module__}.FewDigits", "name": "few", **data}
        cfg.batch_size = 10 if torchvisions else cfg.batch_size
    return cfg


@contextmanager
def opened(name: str, way: Sequence[str], folder: Path) -> Iterator[Experiment]:
    experiment = build(configuration(name, way), folder, "identity")
    with experiment.engine.open(experiment.setup):
        yield experiment


def play(experiment: Experiment, until: int | None = None) -> Experiment:
    """The rounds before `until`, each evaluated as a run does."""
    for t in range(experiment.progress.t, experiment.rounds if until is None else until):
        now = experiment.server.begin(t)
        for update in experiment.engine.run(now.tasks()):
            assert update.problem is None, update.problem
            now.absorb(update)
        assert now.conclude().rejected == {}
        experiment.progress.t = t + 1
        experiment.evaluate(experiment.server.model)
    return experiment


def digest(experiment: Experiment) -> str:
    """The model's whole content, buffers included, and what it scores."""
    return f"{saved(experiment).digest()[:16]} {experiment.evaluate(experiment.server.model).loss_global:.12g}"


def saved(experiment: Experiment) -> SavedModel:
    """What the run's file of the model holds."""
    return SavedModel.of(experiment.server.model, experiment.card, experiment.server.state.buffers)


@torch.no_grad()
def check_file(experiment: Experiment, folder: Path) -> None:
    """The model that the run's file gives, in a network that is made anew, does what the run's own does."""
    path = folder / "model.safetensors"
    path.write_bytes(saved(experiment).packed())
    images = experiment.setup.data.open().images[:20]
    experiment.evaluate(experiment.server.model)
    network = experiment.network.module.eval()
    classifier = SavedModel.read(path).classifier()
    # NaN in the same places is the same: MNASNet's statistics hardly follow in six rounds, and its logits overflow
    torch.testing.assert_close(classifier(images), network(classifier.front(images)), rtol=0, atol=0, equal_nan=True)


def played(name: str, way: Sequence[str], folder: Path) -> str:
    """The digest after all rounds; what is dead is 0 and as much is alive as was asked for."""
    with opened(name, way, folder) as experiment:
        play(experiment)
        model = experiment.server.model
        wanted = tuple(map(sum, zip(*(stage.counts for stage in experiment.setup.stages), strict=True)))
        assert model.alive_at.counts == wanted, (model.alive_at.counts, wanted)
        assert not bool(model.weights[~model.alive].any())
        if way == WAYS["exact"]:
            check_file(experiment, folder)
        return digest(experiment)


def resumed(name: str, way: Sequence[str], folder: Path) -> str:
    """The digest of a run that another process might have begun: nothing but the checkpoint is carried over."""
    with opened(name, way, folder) as first:
        play(first, 4).save()
    with opened(name, way, folder) as second:
        second.restore(checkpoint.load(folder / "checkpoints" / "last.ckpt"))
        return digest(play(second))


# ---- ranks -----------------------------------------------------------------------------------------------------------


def over_ranks(name: str, ranks: int) -> str:
    """The digest of a run over so many ranks."""
    done = _warm().ranks(ranks, "-m", "tests.every_network", "--rank", name)
    lines = [line for line in done.stdout.splitlines() if line.startswith("digest ")]
    return lines[0].removeprefix("digest ") if lines else done.stderr[-300:]


@functools.cache
def _warm() -> WarmPython:
    return WarmPython()


def as_rank(name: str) -> None:
    """One of the processes."""
    from pffdst.build import follow
    from pffdst.engines.ranks import join

    ranks = join()
    assert ranks is not None
    if ranks.rank != 0:
        follow(ranks)
    with tempfile.TemporaryDirectory() as folder:
        print("digest", played(name, WAYS["workers=0"], Path(folder)), flush=True)
    ranks.close()


# ---- all of them -----------------------------------------------------------------------------------------------------


@dataclass
class Found:
    """What the ways of playing a network gave."""

    digests: dict[str, str]

    @property
    def problems(self) -> list[str]:
        """Ways that should give one digest and do not."""
        groups = [("workers=0", "workers=2", "workers=3", "resumed", "2 ranks"), ("exact", "trainer")]
        if self.digests.get("batched", "").startswith("not"):
            groups[1] = ("exact", "trainer")
        return [
            f"{way} {self.digests[way]}, {group[0]} {self.digests[group[0]]}"
            for group in groups
            for way in group[1:]
            if way in self.digests and self.digests[way] != self.digests[group[0]]
        ]


def every_way(name: str, ranks: int = 2) -> Found:
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for way, overrides in WAYS.items():
            found[way] = played(name, overrides, Path(folder))
        (Path(folder) / "resumed").mkdir()
        found["resumed"] = resumed(name, WAYS["workers=2"], Path(folder) / "resumed")
        if ranks > 1:
            found[f"{ranks} ranks"] = over_ranks(name, ranks)
    return Found(found)


def main(names: Sequence[str], ranks: int = 2) -> int:
    """A line for each network; 1 where the ways of one differ."""
    warnings.simplefilter("ignore")
    logging.disable()
    failed = 0
    for name in names or [*(a.name for a in ZOO), *TORCHVISION]:
        began = time.monotonic()
        try:
            found = every_way(name, ranks)
            words = "; ".join(found.problems) or "one digest " + found.digests["workers=0"].split()[0]
            words += "" if found.digests["batched"] == found.digests["exact"] else ", batched another"
            failed += bool(found.problems)
        except Exception as error:
            words, failed = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", failed + 1
        print(f"{name:24} {time.monotonic() - began:5.1f} s  {words}", flush=True)
    print(f"{failed} of them failed")
    return int(failed > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        as_rank(sys.argv[2])
    else:
        alone = "--alone" in sys.argv
        sys.exit(main([name for name in sys.argv[1:] if name != "--alone"], 1 if alone else 2))
