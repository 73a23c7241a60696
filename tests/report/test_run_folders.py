"""Every folder is told as what it is, and none breaks the report."""

import json
import shutil
import tracemalloc

import pytest
from filelock import FileLock

from pffdst.core.errors import UserError
from pffdst.metrics import names
from pffdst.report.groups import group_runs, is_counted, keys_of
from pffdst.report.library import Library
from pffdst.report.reading import FINALS
from pffdst.report.rows import read_columns
from pffdst.runs import files
from pffdst.runs import jobs as sweeps

EXPECTED = {
    "truncated row": ("done", "1 of 20 rows of metrics.csv are damaged"),
    "bad json": ("done", "summary.json cannot be read"),
    "no summary": ("done", "summary.json is missing"),
    "no metrics": ("done", "metrics.csv is missing"),
    "bad config": ("damaged", "its settings are not known config.yaml cannot be read"),
    "binary metrics": ("done", "metrics.csv"),
    "failed": ("failed", "holds no cifar10_train"),
    "empty": ("empty", "no run has been written here yet"),
    "skipped": ("skipped", "the result is in"),
}


def only(shelf, name):
    return next(run for run in shelf.runs if run.id.endswith(name))


def alone(folder):
    (run,) = Library([folder]).look().runs
    return run


@pytest.mark.parametrize("damage", EXPECTED)
def test_a_damaged_folder_is_told_with_its_reason(shelf, damage):
    status, reason = EXPECTED[damage]
    run = only(shelf, f"damaged/{damage}")
    assert run.status == status
    assert reason in " ".join(run.remarks)


def test_a_run_whose_settings_are_not_known_is_in_no_group(shelf, groups):
    assert not only(shelf, "damaged/bad config").has_figures
    assert all(value is not None for group in groups for value in group.values.values())


def test_every_damage_there_is_has_an_expectation(synthetic):
    assert set(EXPECTED) == set(synthetic.DAMAGES)


def test_a_run_without_summary_has_the_figures_of_its_last_rows(tmp_path, write):
    folder = write(tmp_path / "logs/a")
    whole = alone(tmp_path / "logs").final
    (folder / files.SUMMARY).unlink()
    assert {key: alone(tmp_path / "logs").final[key] for key in FINALS if key in whole} == pytest.approx(
        {key: whole[key] for key in FINALS if key in whole}
    )


def test_a_run_is_running_while_its_lock_is_held_and_stopped_afterwards(tmp_path, write):
    folder = write(tmp_path / "logs/a", done=10)
    library = Library([tmp_path / "logs"])
    with FileLock(folder / files.LOCK):
        assert [run.status for run in library.look().runs] == ["running"]
    assert [run.status for run in library.look().runs] == ["stopped"]
    assert not is_counted(library.look().runs[0])


def test_of_one_configuration_the_finished_run_is_counted_and_the_other_names_it(tmp_path, write):
    write(tmp_path / "logs/z", seed=3)
    write(tmp_path / "logs/a", seed=3)
    write(tmp_path / "logs/b", seed=4)
    shelf = Library([tmp_path / "logs"]).look()
    assert {run.id: run.twin for run in shelf.runs} == {"a": "z", "b": "", "z": ""}
    assert [run.id for run in shelf.runs if is_counted(run)] == ["b", "z"]


def test_a_run_stopped_after_its_last_round_yields_to_the_finished_one(tmp_path, write):
    late = write(tmp_path / "logs/z")
    write(tmp_path / "logs/a")
    sweeps.mark(late, sweeps.read_run(late)["fingerprint"], "running")
    (late / files.SUMMARY).unlink()
    runs = Library([tmp_path / "logs"]).look().runs
    assert {run.id: (run.status, run.twin) for run in runs} == {"a": ("done", ""), "z": ("stopped", "a")}


def test_of_two_finished_runs_the_whole_one_counts(tmp_path, write):
    write(tmp_path / "logs/a")
    (write(tmp_path / "logs/z") / files.METRICS).write_text("")
    assert {run.id: run.twin for run in Library([tmp_path / "logs"]).look().runs} == {"a": "", "z": "a"}


def test_of_two_whole_runs_the_newest_counts_whatever_its_folder_is_called(tmp_path, write):
    for name, date in (("runs/2026-02-01", "2026-02-01T00:00:00+00:00"), ("sweeps/a", "2025-01-01T00:00:00+00:00")):
        (write(tmp_path / "logs" / name) / files.PROVENANCE).write_text(json.dumps([{"date": date}]))
    twins = {run.id: run.twin for run in Library([tmp_path / "logs"]).look().runs}
    assert twins == {"runs/2026-02-01": "", "sweeps/a": "runs/2026-02-01"}


@pytest.mark.parametrize(("archive", "count"), [({}, 2), ({"archive": "CIFAR10"}, 1)])
def test_own_data_in_two_folders_are_two_groups_and_an_archive_is_one_wherever_it_lies(tmp_path, write, archive, count):
    for seed, place in enumerate(("clean", "noisy")):
        dataset = {"_target_": "pffdst.data.sources.vision.VisionSource", "name": "own", "path": f"/data/{place}"}
        write(tmp_path / "logs" / place, seed=seed, dataset=dataset | archive)
    runs = Library([tmp_path / "logs"]).look().runs
    assert len(group_runs(runs, keys_of(runs))) == count


def test_a_run_that_has_just_begun_is_not_damaged(tmp_path, write):
    folder = write(tmp_path / "logs/a", done=1)
    (folder / "metrics.csv").unlink()
    assert alone(tmp_path / "logs").remarks == (f"after round 0 of 20; to resume: resume={folder}",)


def test_only_what_changed_is_read_again(tmp_path, write, monkeypatch):
    for name in ("a", "b", "c"):
        write(tmp_path / "logs" / name, seed=ord(name))
    library = Library([tmp_path / "logs"])
    first = library.look()
    read = []
    real = Library._fresh.__globals__["read_run"]
    monkeypatch.setitem(Library._fresh.__globals__, "read_run", lambda *a: read.append(a[1]) or real(*a))
    assert library.look() is first
    (tmp_path / "logs/b/summary.json").write_text("{}")
    second = library.look()
    assert read == ["b"]
    assert {name for name, version in second.changed.items() if version > first.version} == {"b"}


def test_a_run_that_is_removed_leaves(tmp_path, write):
    write(tmp_path / "logs/a")
    write(tmp_path / "logs/b", seed=1)
    library = Library([tmp_path / "logs"])
    library.look()
    shutil.rmtree(tmp_path / "logs/a")
    assert [run.id for run in library.look().runs] == ["b"]


def test_numbers_of_a_summary_that_are_none_are_absent(tmp_path, write):
    folder = write(tmp_path / "logs/a")
    summary = json.loads((folder / "summary.json").read_text())
    words = {"acc_global": "much", "bytes_up": None, "ema_acc_global": float("nan"), "rejected": True}
    (folder / "summary.json").write_text(json.dumps(summary | words))
    assert words.keys().isdisjoint(alone(tmp_path / "logs").final)


def test_rows_that_go_back_in_time_are_left_out(tmp_path, write):
    folder = write(tmp_path / "logs/a")
    path = folder / "metrics.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines, lines[3]]))
    run = alone(tmp_path / "logs")
    rounds = [row[names.ROUND] for row in run.rows]
    assert rounds == sorted(set(rounds))
    assert "1 of 21 rows" in " ".join(run.remarks)


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        Library([tmp_path / "nowhere"]).look()


def test_what_lies_inside_a_run_is_no_run_of_its_own(tmp_path, write):
    folder = write(tmp_path / "logs/a")
    (folder / "checkpoints").mkdir()
    (folder / "wandb/deep").mkdir(parents=True)
    assert [run.id for run in Library([tmp_path / "logs"]).look().runs] == ["a"]
    assert [run.id for run in Library([folder]).look().runs] == ["a"]


def test_many_rows_take_the_memory_of_their_figures(tmp_path, write):
    path = write(tmp_path / "long", rounds=3) / files.METRICS
    heading, *rows = path.read_text().splitlines()
    columns, cells = heading.split(","), rows[-1].split(",")
    count = 5000
    with path.open("w") as file:
        file.write(heading + "\n")
        for number in range(1, count + 1):
            cells[columns.index(names.ROUND)] = str(number)
            file.write(",".join(cells) + "\n")
    tracemalloc.start()
    try:
        found, lost = read_columns(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(found), lost) == (count, 0)
    assert peak < 8 * count * len(columns)  # eight bytes a figure; rows of words take five times that and more
