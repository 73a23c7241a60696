"""A parsed command line: overrides and Hydra's own flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import final

from hydra._internal.utils import get_args_parser

from pffdst.core.program import command_line

__all__ = ["CommandLine", "key_of"]

# Each of these is all that a command line does; Hydra accepts only one.
_COMMANDS = ("--run", "--multirun", "--cfg", "--info")


def key_of(line: str) -> str:
    """The key of an override as typed, including `+`, `++` and `~`."""
    return line.split("=", 1)[0].strip()


@final
@dataclass(frozen=True)
class CommandLine:
    """The arguments after the program's name, `argv`.

    `--key=value`, as a W&B agent writes it, is the override `key=value`, unless it is one of Hydra's flags.
    """

    argv: tuple[str, ...]

    @classmethod
    def of(cls, argv: Sequence[str]) -> CommandLine:
        """Reads `--key=value` as `key=value`."""
        flags = {name for action in get_args_parser()._actions for name in action.option_strings}
        return cls(tuple(_undashed(token, flags) for token in argv))

    @cached_property
    def _parsed(self) -> tuple[argparse.Namespace, list[str]]:
        return get_args_parser().parse_known_intermixed_args(list(self.argv))

    @property
    def args(self) -> argparse.Namespace:
        """Hydra's flags."""
        return self._parsed[0]

    @property
    def overrides(self) -> list[str]:
        """Everything that is not a flag; what follows an unknown flag is an override too."""
        return [*self.args.overrides, *(token for token in self._parsed[1] if not token.startswith("-"))]

    @property
    def unknown(self) -> list[str]:
        """Flags that do not exist."""
        return [token for token in self._parsed[1] if token.startswith("-")]

    @property
    def places(self) -> list[str]:
        """The arguments that name configuration folders: trust must be given again on every command line."""
        own = self.args.config_dir
        searched = [line for line in self.overrides if key_of(line) == "hydra.searchpath"]
        return [*searched, *(["--config-dir", own] if own is not None else [])]

    @property
    def multirun(self) -> bool:
        """Whether it starts a sweep."""
        return bool(self.args.multirun) or "hydra.mode=MULTIRUN" in self.overrides

    @property
    def asks(self) -> bool:
        """Whether it asks for help or completion, whatever else it contains."""
        args = self.args
        return bool(args.help or args.hydra_help or args.shell_completion or args.experimental_rerun is not None)

    @property
    def shows(self) -> bool:
        """Whether it only shows something and runs nothing."""
        return self.asks or self.args.cfg is not None or self.args.info is not None

    @property
    def searches(self) -> bool:
        """Whether it starts a search."""
        return not self.shows and self.search is not None

    @property
    def search(self) -> str | None:
        """The search it names."""
        chosen = [line.partition("=")[2] for line in self.overrides if key_of(line) == "search"]
        return chosen[-1] if chosen and chosen[-1] != "null" else None

    def handed_on(self, overrides: Sequence[str], config_dir: Path) -> list[str]:
        """The arguments for Hydra, with these overrides instead of its own, and with the user's own folder named.

        Overrides come first: `--info` takes an optional word and would swallow one that follows it.
        """
        kept, own = set(self.overrides), self.own_configs(config_dir)
        flags = [token for token in self.argv if token not in kept]
        named = own is not None and self.args.config_dir is None
        return [*overrides, *flags, *(["--config-dir", str(own)] if named else [])]

    def own_configs(self, config_dir: Path) -> Path | None:
        """The user's own configuration folder: `--config-dir`, else `configs` in the working directory.

        None if there is no folder other than `config_dir`.
        """
        if self.args.config_dir is not None:
            return Path(self.args.config_dir)
        here = Path("configs")
        return here if here.is_dir() and not here.samefile(config_dir) else None

    def problems(self) -> list[str]:
        """Flags that do not exist or cannot be combined."""
        found = [_dashed(token) for token in self.unknown]
        commands = [flag for flag in _COMMANDS if getattr(self.args, flag.strip("-"))]
        if self.multirun and self.shows:
            found.append("-m has many configurations, --cfg and --info show one: leave out -m and write single values")
        elif len(commands) > 1:
            found.append(f"{' and '.join(commands)} cannot be combined: write one of them")
        if self.args.resolve and not self.args.cfg:
            found.append("--resolve needs --cfg: write --cfg job --resolve")
        if self.multirun and self.search is not None:
            instead = command_line("train", [f"search={self.search}"])
            found.append(f"-m and search cannot be combined; write {instead}")
        return found


def _undashed(token: str, flags: set[str]) -> str:
    return token[2:] if token.startswith("--") and "=" in token and key_of(token) not in flags else token


def _dashed(token: str) -> str:
    bare = token.lstrip("-")
    return f"{token}: no such flag; settings have no dashes: write {bare if '=' in bare else f'{bare}=...'}"
