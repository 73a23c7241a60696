"""How a configuration was composed: the options chosen, their folders, and what the command line set."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

__all__ = ["Choices", "options_of"]


@final
@dataclass(frozen=True)
class Choices:
    """What Hydra knows about a composed configuration, for messages in the user's own terms.

    `chosen`: option per group; `folders`: the folders with the groups' yaml files; `typed`: dotted keys set on the
    command line; `root`: the name of the main yaml. All are empty for a configuration composed without Hydra's node.
    """

    chosen: Mapping[str, Any] = field(default_factory=dict)
    folders: tuple[Path, ...] = ()
    typed: frozenset[str] = frozenset()
    root: str = "train"

    @classmethod
    def of(cls, hydra: Any) -> Choices:
        """Reads Hydra's own node of a composed configuration."""
        sources = hydra.runtime.config_sources
        folders = tuple(Path(source.path) for source in sources if source.schema == "file")
        lines = OmegaConf.to_container(hydra.overrides.task, resolve=False)
        typed = frozenset(str(line).split("=", 1)[0].lstrip("+~") for line in lines or ())
        chosen = OmegaConf.to_container(hydra.runtime.choices)
        assert isinstance(chosen, dict)
        root = str(OmegaConf.select(hydra, "job.config_name", default="train"))
        return cls({str(group): option for group, option in chosen.items()}, folders, typed, root)

    @classmethod
    def current(cls) -> Choices:
        """The choices of the job running under `hydra.main`, otherwise empty ones."""
        return cls.of(HydraConfig.get()) if HydraConfig.initialized() else cls()

    def options(self, group: str) -> dict[str, DictConfig]:
        """The yaml files of a group as written, by option name; empty if the folders are not known."""
        return {name: self.written(group, name) for name in dict.fromkeys(path.stem for path in self._files(group))}

    def chosen_by(self, group: str) -> list[str]:
        """The groups from which some option of `group` chooses, in the order of the files."""
        found = (_options_in(path, path.stat().st_mtime_ns) for path in self._files(group))
        return list(dict.fromkeys(chosen for options in found for chosen in options))

    def written(self, group: str, option: Any) -> DictConfig:
        """The yaml file of an option as written; for a list of options, all merged. Empty if there is none."""
        names = option if isinstance(option, list) else [option]
        return _merged([path for name in names if (path := self._file(f"{group}/{name}.yaml"))])

    def defaults(self) -> dict[str, Any]:
        """The option per group that the main yaml names."""
        path = self._file(f"{self.root}.yaml")
        return {} if path is None else options_of(_merged([path]))

    def called(self, group: str, node: Any) -> str:
        """The choice as the user would write it, e.g. `model=lenet`."""
        choice = self.chosen.get(group)
        if choice is None:
            choice = str(node.get("_target_", "?")).rpartition(".")[2] if isinstance(node, DictConfig) else "?"
        return f"{group}={choice}"

    def _files(self, group: str) -> list[Path]:
        return [path for folder in self.folders for path in sorted((folder / group).glob("*.yaml"))]

    def _file(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)


def options_of(preset: DictConfig) -> dict[str, Any]:
    """The option per group that a yaml's list of defaults names."""
    lines = OmegaConf.to_container(preset, resolve=False)
    assert isinstance(lines, dict)
    named = [line for line in lines.get("defaults") or () if isinstance(line, dict)]
    found = {str(key).split()[-1].lstrip("/"): value for line in named for key, value in line.items()}
    return {group: option for group, option in found.items() if "@" not in group}


@functools.lru_cache(maxsize=512)
def _options_in(path: Path, _written: int) -> tuple[str, ...]:
    return tuple(options_of(_merged([path])))


def _merged(paths: list[Path]) -> DictConfig:
    found = OmegaConf.merge({}, *(_read(path, path.stat().st_mtime_ns) for path in paths))
    return found if isinstance(found, DictConfig) else OmegaConf.create({})


@functools.lru_cache(maxsize=512)  # every job of a sweep asks for the same ones
def _read(path: Path, _written: int) -> Any:
    return OmegaConf.load(path)
