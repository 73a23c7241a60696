"""Every study's file can be played, and every page in docs/results is what its record says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from pffdst.config.compose import session
from pffdst.core.errors import UserError
from pffdst.report.groups import NEUTRAL
from pffdst.report.reading import _flat
from reproduce.__main__ import parser
from reproduce.page import text
from reproduce.record import Record
from reproduce.study import CONFIGS, STUDIES, checked, jobs_of, load, names
from reproduce.tuning import jobs

RESULTS = STUDIES.parent / "docs" / "results"
KEPT = [name for name in names() if (RESULTS / name).is_dir()]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Where the check looks for the files of studies of texts, which nothing downloads."""
    folder = tmp_path_factory.mktemp("texts")
    for split in ("train", "test"):
        (folder / f"sst2_{split}.parquet").touch()
    return [f"dataset.path={folder}"]


@pytest.mark.parametrize("name", names())
def test_every_row_composes_and_passes_the_check(name: str, texts: list[str]) -> None:
    study = load(name)
    every = jobs_of(study)
    assert len({(job.row, job.seed) for job in every}) == len(every)
    assert {job.of for job in every} == set(study.rows)  # a row that no table shows would be played for nobody
    here = [word for word in study.rehearsal if word.startswith("engine.device=")]  # rows may want another machine's
    checked(every, extra=[*here, *(texts if "experiment=sst2" in study.setting else [])])


@pytest.mark.parametrize("name", names())
def test_every_study_can_be_rehearsed(name: str, texts: list[str]) -> None:
    study = load(name)
    here = texts if "experiment=sst2" in study.setting else []
    checked(jobs_of(study, seeds=[0]), extra=(*study.engine, *study.rehearsal, *here))


@pytest.mark.parametrize("name", KEPT)
def test_a_page_is_what_its_record_says(name: str) -> None:
    study, record = load(name), Record.read(RESULTS / name)
    page = (RESULTS / f"{name}.md").read_text()
    assert page == text(study, name, record)
    assert "{" not in page, "a figure was not filled in"
    assert all(record.holds(job) for job in jobs(study, record) if (job.row, job.seed) in record.entries)


@pytest.mark.parametrize("name", KEPT)
def test_the_settings_behind_a_page_are_still_those_of_its_commands(name: str) -> None:
    entries = {entry.row: entry for entry in Record.read(RESULTS / name).entries.values()}
    with session(CONFIGS) as opened:
        for row, entry in entries.items():
            now = dict(
                _flat(OmegaConf.to_container(opened.compose([*entry.overrides, *entry.older]).cfg, resolve=True))
            )
            changed = {
                key: (value, now.get(key))
                for key, value in entry.config.items()
                if key.split(".")[0] not in NEUTRAL and now.get(key) != value
            }
            assert changed == {}, row


def changed(old: str, new: str, study_file: Path) -> str:
    path = study_file.with_name("own.yaml")
    path.write_text(study_file.read_text().replace(old, new))
    return str(path)


def test_wrong_files_are_refused_by_name(study_file: Path) -> None:
    with pytest.raises(UserError, match=r"there is no such study; there are .*lenet_cifar10"):
        load("nothing")
    with pytest.raises(UserError, match=r"no such study; did you mean lenet_cifar10\?"):
        load("lenet_cifar")
    with pytest.raises(UserError, match="names gone, which is no key of `rows`"):
        load(changed("rows: [fixed, moving]", "rows: [fixed, gone]", study_file))
    with pytest.raises(UserError, match="expected `reference` to be one of its rows"):
        load(changed("rows: [fixed, moving]", "rows: [moving]", study_file))
    with pytest.raises(UserError, match=r"own\.yaml"):
        load(changed("title: Two", "titel: Two", study_file))
    with pytest.raises(UserError, match="expected sections or seeds"):
        load(changed("data: []", "data: []\norder: rows", study_file))


def test_a_row_that_train_py_would_refuse_is_refused_before_anything_is_played(study_file: Path) -> None:
    study = load(changed("[method=pffdst]", "[method=pffdst, lr=-1]", study_file))
    with pytest.raises(UserError, match=r"row moving: .*\n.*lr"):
        checked(jobs_of(study))


def test_jobs_come_in_the_order_of_the_file(study_file: Path) -> None:
    study = load(changed("rows: [fixed, moving], seeds: [0, 1]}", TWO, study_file))
    assert [job.name for job in jobs_of(study)] == ["moving/0", "moving/1", "fixed/0", "fixed/2"]
    study.order = "seeds"
    assert [job.name for job in jobs_of(study)] == ["moving/0", "fixed/0", "fixed/2", "moving/1"]
    assert [job.name for job in jobs_of(study, rows=["fixed"], seeds=[2])] == ["fixed/2"]
    with pytest.raises(UserError, match="no such row; there are fixed, moving"):
        jobs_of(study, rows=["other"])
    with pytest.raises(UserError, match=r"no such row; did you mean moving\?"):
        jobs_of(study, rows=["movin"])


TWO = """rows: [moving, fixed], seeds: []}
  - {title: One, about: a, reference: moving, rows: [moving], seeds: [0, 1]}
  - {title: Two, about: b, reference: fixed, rows: [fixed, moving], seeds: [0]}
  - {title: Three, about: c, reference: fixed, rows: [fixed], seeds: [2]}"""


TOLD = (STUDIES.parent / "docs" / "studies.md").read_text()


@pytest.mark.parametrize(
    "line", re.findall(r"^python -m reproduce (?!pack|unpack)(.*?)(?: +#.*)?$", TOLD, flags=re.MULTILINE)
)
def test_the_commands_that_are_told_are_accepted(line: str) -> None:
    given = parser().parse_args(shlex.split(line))
    if not given.study.startswith("my_"):
        assert jobs_of(load(given.study), [row for row in given.only.split(",") if row])
