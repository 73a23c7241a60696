"""A study's file: which runs there are, and which of them stand beside each other on its page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pffdst.config.check import ConfigError, check
from pffdst.config.compose import session
from pffdst.core.errors import UserError

__all__ = ["CONFIGS", "STUDIES", "Job", "Row", "Section", "Study", "checked", "jobs_of", "load", "names"]

STUDIES = Path(__file__).resolve().parent
CONFIGS = STUDIES.parent / "configs"


@dataclass
class Row:
    """What a run is called on the page, and its overrides beside the study's `setting`."""

    label: str
    overrides: list[str]


@dataclass
class Section:
    """A table: `rows` by name, played for each of the `seeds`, held against the row `reference`."""

    title: str
    about: str
    reference: str
    rows: list[str]
    seeds: list[int]


@dataclass
class Study:
    """The tables of a page; a row that several of them name is played once a seed.

    `order`: "sections" plays all seeds of a section before the next one, "seeds" the first seed of all sections before
    the second one. `engine` are overrides that say how runs are computed, where the command line says nothing else.
    `data` are the patterns of the data's files, whose digests go onto the page. `rehearsal` are overrides that make
    every run tiny, to see whether all of it runs. Rows that stand `apart` have a spread of their own, as those that do
    not learn: it does not join the pooled one. `conclusions` are the text beside the file, STUDY.md.
    """

    title: str
    about: str
    setting: list[str]
    rows: dict[str, Row]
    sections: list[Section]
    data: list[str]
    rehearsal: list[str]
    engine: list[str] = field(default_factory=list)
    order: str = "sections"
    apart: list[str] = field(default_factory=list)
    published: list[str] = field(default_factory=list)
    conclusions: str = ""


@final
@dataclass(frozen=True)
class Job:
    """One run: a row with a seed, and its overrides without folders."""

    row: str
    seed: int
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Also its folder below the study's."""
        return f"{self.row}/{self.seed}"


def names() -> list[str]:
    """The studies there are."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def load(name: str) -> Study:
    """The study `name`, or that of a file. UserError where there is none, or its file says what cannot be."""
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"{name}: there is no such study; there are {', '.join(names())}, or name a YAML file")
    try:
        found: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.load(path)))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from error
    assert isinstance(found, Study)
    words = path.with_suffix(".md")
    if words.exists():
        found.conclusions = words.read_text(encoding="utf-8").strip()
    if found.order not in ("sections", "seeds"):
        raise UserError(f"{path}: order: {found.order}: expected sections or seeds")
    strange = [row for row in found.apart if row not in found.rows]
    if strange:
        raise UserError(f"{path}: apart: {', '.join(strange)}: expected keys of `rows`")
    for section in found.sections:
        unknown = [row for row in [*section.rows, section.reference] if row not in found.rows]
        if unknown:
            raise UserError(f"{path}: section {section.title!r} names {', '.join(unknown)}, which is no key of `rows`")
        if section.reference not in section.rows:
            raise UserError(f"{path}: section {section.title!r}: expected `reference` to be one of its rows")
    return found


def jobs_of(study: Study, rows: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Job]:
    """Every run once, in the study's order, in which what tells most comes first.

    Only those of the given `rows` and `seeds`, where some are given. UserError for a row that there is not.
    """
    unknown = [row for row in rows if row not in study.rows]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no such row; there are {', '.join(study.rows)}")
    wanted = dict.fromkeys((row, seed) for _, row, seed in _wanted(study))
    return [
        Job(row, seed, (*study.setting, *study.rows[row].overrides, f"seed={seed}"))
        for row, seed in wanted
        if (not rows or row in rows) and (not seeds or seed in seeds)
    ]


def _wanted(study: Study) -> list[tuple[int, str, int]]:
    """(place, row, seed) in the order of playing; of equal places the section that stands first."""
    found = [
        (nth if study.order == "seeds" else 0, row, seed)
        for section in study.sections
        for nth, seed in enumerate(section.seeds)
        for row in section.rows
    ]
    return sorted(found, key=lambda one: one[0])


def checked(jobs: Sequence[Job], extra: Sequence[str] = ()) -> None:
    """UserError for the first row whose overrides train.py would refuse, before anything is played."""
    first = {job.row: job for job in reversed(jobs)}
    with session(CONFIGS) as opened:
        for row, job in first.items():
            try:
                check(opened.compose([*job.overrides, *extra]).cfg)
            except (ConfigError, HydraException) as error:
                raise UserError(f"row {row}: {error}") from error
