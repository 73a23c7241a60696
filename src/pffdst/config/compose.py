"""Composes configurations outside `hydra.main`: the existing groups and options, and what a command line yields."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf, open_dict

from pffdst.config.check import tidy
from pffdst.config.choices import Choices
from pffdst.config.help import examples, settings
from pffdst.config.schema import RootConfig

__all__ = ["VERSION_BASE", "Composed", "Session", "compose", "composition_line", "register", "session"]

VERSION_BASE = "1.3"


@final
@dataclass(frozen=True)
class Composed:
    """A composed configuration as a run would get it, with Hydra's own node and the choices."""

    cfg: DictConfig
    hydra: DictConfig
    choices: Choices

    @property
    def folder(self) -> Path:
        """Where a single run would write."""
        return Path(str(self.hydra.run.dir))


@final
@dataclass(frozen=True)
class Session:
    """Hydra, opened on the configuration folders; valid only inside `session(...)`."""

    config_name: str
    loader: ConfigLoader
    places: tuple[str, ...] = ()

    def groups(self) -> list[str]:
        """The names of the groups, without Hydra's own."""
        return [name for name in self._listed("", ObjectType.GROUP) if name != "hydra"]

    def options(self, group: str) -> list[str]:
        """The options of a group."""
        return sorted(self._listed(group, ObjectType.CONFIG))

    def compose(self, overrides: Sequence[str]) -> Composed:
        """The configuration under these overrides. Hydra's and OmegaConf's errors pass through."""
        cfg = hydra_compose(self.config_name, [*overrides, *self.places], return_hydra_config=True)
        hydra: Any = cfg.hydra
        choices = Choices.of(hydra)
        with open_dict(cfg):
            del cfg["hydra"]
        return Composed(tidy(cfg, choices), hydra, choices)

    def _listed(self, group: str, kind: ObjectType) -> list[str]:
        return list(self.loader.get_group_options(group, kind, self.config_name, list(self.places)))


@contextmanager
def session(config_dir: Path, config_name: str = "train", searchpath: Sequence[str] = ()) -> Iterator[Session]:
    """Opens Hydra on `config_dir` and the folders of `searchpath`, and restores its global state afterwards."""
    register()
    places = (f"hydra.searchpath=[{','.join(repr(place) for place in searchpath)}]",) if searchpath else ()
    with initialize_config_dir(str(config_dir.resolve()), job_name="train", version_base=VERSION_BASE):
        yield Session(config_name, GlobalHydra.instance().config_loader(), places)


def register() -> None:
    """Registers the schema and the texts of `--help` with Hydra; calling it again changes nothing."""
    ConfigStore.instance().store(name="schema", node=RootConfig)
    OmegaConf.register_new_resolver("help_examples", examples, replace=True)
    OmegaConf.register_new_resolver("help_settings", settings, replace=True)


def compose(overrides: Sequence[str], config_dir: Path) -> DictConfig:
    """The configuration that `python train.py OVERRIDES` runs, for tests, notebooks and reports."""
    with session(config_dir) as opened:
        return opened.compose(overrides).cfg


def composition_line(error: BaseException) -> str:
    """Hydra's own message on one line, without its search path and its advice to use a plus sign."""
    lines = [line.strip() for part in (error, error.__cause__) if part is not None for line in str(part).splitlines()]
    kept = list(itertools.takewhile(lambda line: not line.startswith("Config search path"), lines))
    noise = ("To append to your", "full_key:", "object_type=", "See https://")
    return " ".join(line for line in kept if line and not line.startswith(noise)) or type(error).__name__
