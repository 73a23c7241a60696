"""A folder that anybody may have made is named and left out: it never raises, hangs or fills memory."""

import json
import os
import random
import shutil
import threading
import time
from pathlib import Path

import pytest

from pffdst.cli.status import main as status
from pffdst.report.exports import latex_text, runs_csv
from pffdst.report.figures import ACCURACIES
from pffdst.report.groups import group_runs, is_counted, keys_of
from pffdst.report.html import page
from pffdst.report.library import Library, Shelf
from pffdst.report.payload import payload
from pffdst.report.reading import read_run
from pffdst.runs import files

MUTATIONS = int(os.environ.get("PFFDST_MUTATIONS", "300"))  # 10,000 before a change of the readers is merged
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, warm):
    """The folder of a run that was trained: three rounds on digits."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = ["rounds=3", "eval_every=1", "clients=4", "cohort=2", "engine.workers=0", "logger=csv", "method=fedavg"]
    done = warm("train.py", *words, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def everything(runs):
    """All that the report makes of runs; raises where something of it cannot be written."""
    shelf = Shelf(1, Path(), tuple(runs), {run.id: 1 for run in runs})
    text = json.dumps(payload(shelf), allow_nan=False)
    text.encode()
    groups = group_runs([run for run in runs if is_counted(run)], keys_of([run for run in runs if run.has_figures]))
    runs_csv(runs, ["method_name"]).encode()
    latex_text(groups, next(iter(ACCURACIES)), 0.5).encode()
    return json.loads(text)


# ---- mutations -------------------------------------------------------------------------------------------------------

FILES = (files.SUMMARY, files.RUN, files.CONFIG, files.METRICS, files.CLIENTS, files.HYDRA_SETTINGS)
TOKENS = [
    *(
        b"Infinity",
        b"-Infinity",
        b"NaN",
        b"1e308",
        b"-1e308",
        b"1e999",
        b"9" * 400,
        b"-5",
        b"0x" + b"f" * 200,
        b"1:2:3",
    ),
    *(b"[" * 3000, b'{"a":' * 300, b"&a [*a, *a]", b"*a", b"<<: {a: 1}", b"!!python/name:os.system", b"!!binary ab"),
    *(
        b"1:2:3",
        b"!!timestamp x",
        b"!!int ''",
        b"2026-13-45",
        b"null",
        b"true",
        b'"',
        b"'",
        b",",
        b"\n",
        b"\r\n",
        b";",
        b"\t",
    ),
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"\x1b[2J", b"</script>", b"=1+1", b"[x]", b"\xe2\x80\xae"),
    *(b"{}", b"[]", b"[[1, 2], [3]]", b'{"folder": 5}', b"evaluated_on", b"validation_share: 1", b"_target_: 5"),
]


def mutated(content, dice, others):
    """One change of a file's bytes."""
    at, end = sorted(dice.randrange(len(content) + 1) for _ in range(2))
    kind = dice.randrange(8)
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + content[end:]
    if kind == 2:
        return content[:end] + content[at:]
    if kind == 3:
        return dice.choice(others)
    if kind == 4:
        return bytes(b ^ (1 << dice.randrange(8)) if dice.random() < 0.01 else b for b in content)
    if kind == 5:  # another value in a field's stead
        start = max(content.rfind(mark, 0, at) for mark in (b" ", b",", b":", b"\n")) + 1
        stop = min((found for mark in (b",", b"\n", b"}") if (found := content.find(mark, start)) >= 0), default=start)
        return content[:start] + dice.choice(TOKENS) + content[stop:]
    return content[:at] + dice.choice(TOKENS) + content[at:]


def test_mutations_of_real_folders_are_told_and_none_raises(trained, tmp_path, write):
    dice = random.Random(20261128)
    places = [trained, write(tmp_path / "written", rounds=6, layers=2)]
    good = read_run(write(tmp_path / "good", seed=1, rounds=4, layers=2), "good")
    originals = [{name: (place / name).read_bytes() for name in FILES if (place / name).is_file()} for place in places]
    folder, seen = tmp_path / "mutated", {}
    (folder / files.HYDRA).mkdir(parents=True)
    for number in range(MUTATIONS):
        content = dict(originals[number % 2])
        chosen = dice.sample(sorted(content), dice.choice((1, 1, 1, 2)))
        if files.HYDRA_SETTINGS not in chosen:
            content.pop(files.HYDRA_SETTINGS, None)  # the largest of them, and read for the options' names alone
        for name in chosen:
            content[name] = mutated(content[name], dice, list(content.values()))
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        for name, text in content.items():
            (folder / name).write_bytes(text)
        run = read_run(folder, "mutated")
        told = everything([good, run] if number % 20 == 0 else [run])
        assert [each["counted"] for each in told["runs"] if each["id"] == "good"] == [True] * (number % 20 == 0)
        assert all(len(remark) < 1000 for remark in run.remarks)
        seen[run.status] = seen.get(run.status, 0) + 1
    assert set(seen) >= {"done", "damaged"}
    assert sum(seen.values()) == MUTATIONS


# ---- hostile folders -------------------------------------------------------------------------------------------------


def edited(folder, name, **values):
    found = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(found | values))


def numbers_without_end(folder):
    (folder / files.SUMMARY).write_text('{"acc_global": ' + "9" * 400 + "}")


def deep(folder):
    (folder / files.SUMMARY).write_text("[" * 100_000)


def self_alias(folder):
    (folder / files.CONFIG).write_text("a: &a [*a]\n")


def many_aliases(folder):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (folder / files.CONFIG).write_text("\n".join(lines))


def infinity(folder):
    told = (folder / files.CLIENTS).read_text()
    (folder / files.CLIENTS).write_text(told.replace('"clients":', '"clients": Infinity, "more":', 1))


def huge_figure(folder):
    edited(folder, files.SUMMARY, bytes_up=1e308, rounds=1e308)


def pipe(folder):
    (folder / files.SUMMARY).unlink()
    os.mkfifo(folder / files.SUMMARY)


def device(folder):
    (folder / files.SUMMARY).unlink()
    (folder / files.SUMMARY).symlink_to("/dev/zero")


NAMED = {
    "a figure of 400 digits": (numbers_without_end, "a number with 400 digits"),
    "brackets without end": (deep, "nested too deeply"),
    "a list that holds itself": (self_alias, "it uses an alias"),
    "aliases of aliases": (many_aliases, "it uses an alias"),
    "Infinity clients": (infinity, "has an unexpected form"),
    "1e308 bytes": (huge_figure, "impossible values of bytes_up, rounds"),
    "a pipe": (pipe, "not a regular file"),
    "a device": (device, "a link to outside"),
}


# Ten of our own.
def secret_by_link(folder):
    secret = folder.parent.parent / "secret.yaml"
    secret.write_text("password: hunter2\n")
    (folder / files.CONFIG).unlink()
    (folder / files.CONFIG).symlink_to(secret)


def base_sixty(folder):
    (folder / files.CONFIG).write_text("rounds: 1" + ":59" * 200_000)


def one_line(folder):
    with (folder / files.METRICS).open("ab") as file:
        file.write(b"7" * 50_000_000)


def half_a_letter(folder):
    edited(folder, files.SUMMARY, method="\ud800")
    (folder / files.CONFIG).write_text((folder / files.CONFIG).read_text() + 'note: "\\uD800"\n')


def many_keys(folder):
    (folder / files.CONFIG).write_text("".join(f"key{i}: {i}\n" for i in range(60_000)))


def sparse_gigabytes(folder):
    with (folder / files.CLIENTS).open("r+b") as file:
        file.truncate(2**40)


def many_layers(folder):
    path = folder / files.METRICS
    heading, *rows = path.read_text().splitlines()
    extra = ",".join(f"density/l{i}" for i in range(50_000))
    text = "\n".join([f"{heading},{extra}", *(row + "," + ",".join(["1"] * 50_000) for row in rows)])
    path.write_text(text + "\n")


def a_lock_that_is_a_letter(folder):
    letter = folder.parent.parent / "letter.txt"
    letter.write_text("dear all")
    (folder / files.LOCK).symlink_to(letter)
    edited(folder, files.RUN, status="running")


def skipped_for_nowhere(folder):
    for path in folder.iterdir():
        path.unlink()
    (folder / files.SKIPPED).write_text(json.dumps({"folder": "\u0000" + "x" * 100_000}))


def folders_for_files(folder):
    for name in (files.SUMMARY, files.METRICS, files.CONFIG, files.CLIENTS):
        (folder / name).unlink()
        (folder / name).mkdir()


OWN = {
    "a link to a secret": (secret_by_link, "a link to outside"),
    "a number in base sixty": (base_sixty, "digits"),
    "a row without end": (one_line, "rows of metrics.csv are damaged"),
    "half a letter": (half_a_letter, ""),
    "sixty thousand keys": (many_keys, "more than 2000 keys"),
    "a terabyte of nothing": (sparse_gigabytes, "larger than 4 MiB"),
    "fifty thousand layers": (many_layers, ""),
    "a lock that is somebody's letter": (a_lock_that_is_a_letter, "after round"),
    "skipped for a folder that has no name": (skipped_for_nowhere, "the result is in"),
    "folders in the place of files": (folders_for_files, "not a regular file"),
}
HOSTILE = NAMED | OWN


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_folder_is_named_and_the_good_ones_are_shown(tmp_path, write, name):
    make, reason = HOSTILE[name]
    write(tmp_path / "logs/good")
    folder = write(tmp_path / "logs/bad", seed=1)
    make(folder)
    shelf = within(20, lambda: Library([tmp_path / "logs"]).look())
    bad, good = shelf.runs
    assert is_counted(good)
    assert reason in " ".join(bad.remarks)
    text = within(20, lambda: page(payload(shelf)))
    text.encode()
    assert "hunter2" not in json.dumps(payload(shelf))
    assert len(text) < 7e6
    within(20, lambda: status([str(tmp_path / "logs")]))
    if name == "a lock that is somebody's letter":
        assert (tmp_path / "letter.txt").read_text() == "dear all"


def within(seconds, work):
    """The work's result, or a failure where it is not done in time: a hang must not hang the tests."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    began = time.monotonic()
    thread.start()
    thread.join(seconds)
    assert found, f"not done after {time.monotonic() - began:.0f} s"
    return found[0]


def test_a_folder_s_name_that_is_no_text_is_written_out(tmp_path, write):
    odd = os.fsdecode(b"logs/\xff\xfe")
    write(tmp_path / odd)
    (run,) = Library([tmp_path / "logs"]).look().runs
    everything([run])
    assert run.id == "\\udcff\\udcfe"


def test_a_grid_without_end_is_not_counted_out(tmp_path, capsys):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / files.SWEEP).write_text(
        "hydra: {sweeper: {params: {}}, overrides: {task: ['seed=range(0,1000000000)']}}\n"
    )
    assert within(20, lambda: status([str(folder)])) == 0


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_words_in_brackets_and_escape_sequences_are_shown_as_they_are(tmp_path, write, capsys):
    for number, tag in enumerate(("[probe]", "[/x]")):
        folder = write(tmp_path / f"sweep/{number}", seed=number)
        (folder / files.HYDRA).mkdir()
        (folder / files.OVERRIDES).write_text(f"- 'tags={tag}'\n- \"seed={number}\\e[2J\"\n")
    (tmp_path / "sweep" / files.SWEEP).write_text("hydra: {sweeper: {params: {}}, overrides: {task: ['seed=0,1']}}\n")
    assert status([str(tmp_path / "sweep")]) == 0
    told = capsys.readouterr().out
    assert "[probe]" in told
    assert "[/x]" in told
    assert "\x1b" not in told
    assert "\\x1b[2J" in told


def test_an_error_s_escape_sequences_do_not_reach_the_terminal(tmp_path, write, capsys):
    from pffdst.report.__main__ import main

    write(tmp_path / "logs/good")
    folder = write(tmp_path / "logs/bad", seed=1)
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / files.RUN).write_text(
        json.dumps({"status": "failed", "error": "\x1b]0;owned\x07 [red]no[/red] \u202egnp"})
    )
    assert main([str(tmp_path / "logs"), "-o", str(tmp_path / "page.html")]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "\\x1b]0;owned\\x07 [red]no[/red] \\u202egnp" in told


def test_cells_that_a_spreadsheet_would_run_are_text(tmp_path, write):
    for number, name in enumerate(("=cmd|'/C calc'!A0", "+1+1", "@SUM(A1)", "-2+3", "-0.5")):
        write(tmp_path / f"logs/{number}", seed=number, note=name)
    rows = runs_csv(Library([tmp_path / "logs"]).look().runs, ["note"]).splitlines()[1:]
    assert [row.split(",")[2].strip('"') for row in rows] == [
        "'=cmd|'/C calc'!A0",
        "'+1+1",
        "'@SUM(A1)",
        "'-2+3",
        "-0.5",
    ]
