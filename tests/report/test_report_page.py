"""The page is whole, small, asks for nothing and takes nothing of a run for markup."""

import base64
import gzip
import hashlib
import html
import json
import re
from collections import Counter

import pytest

from pffdst.metrics.names import PART_WORDS
from pffdst.report.exports import latex_text, runs_csv
from pffdst.report.html import packed, page
from pffdst.report.library import Library
from pffdst.report.payload import payload
from pffdst.report.pictures import write_pictures

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def text(shelf):
    return page(payload(shelf))


def scripts_of(text):
    return re.findall(r"<script(?: [^>]*)?>(.*?)</script>", text, flags=re.DOTALL)


def unpacked(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


def test_the_policy_allows_the_scripts_of_the_page_and_no_other(text):
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])
    allowed = set(re.findall(r"'sha256-([^']*)'", policy))
    data, *run = scripts_of(text)  # the application and, read by it, the library of the plots
    assert {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in run} == allowed
    assert len(run) == 2
    assert "default-src 'none'" in policy
    assert all(word.startswith("'sha256-") for word in re.search(r"script-src ([^;]*);", policy)[1].split())
    assert "connect-src 'none'" in policy
    assert unpacked(data.strip())["runs"]


def test_nothing_is_loaded_from_elsewhere(text):
    own = text
    for script in scripts_of(text):
        own = own.replace(script, "")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", own)
    assert "@import" not in own
    assert "url(" not in own


def test_no_carriage_return_changes_a_hash(text):
    assert "\r" not in text


def test_the_page_is_small(text):
    assert len(text.encode()) < 6e6


def test_a_run_s_name_and_configuration_cannot_end_the_script(tmp_path, write):
    write(tmp_path / "logs<b>" / "<script>alert(1)", method=EVIL, note=EVIL)
    shelf = Library([tmp_path / "logs<b>"]).look()
    text = page(payload(shelf))
    assert EVIL not in text
    assert "<title>logs&lt;b&gt;" in text
    assert unpacked(scripts_of(text)[0].strip())["runs"][0]["config"]["note"] == EVIL


def test_what_is_packed_comes_back():
    data = {"a": [1, 2.5, None], "b": "ä</script>"}
    assert unpacked(packed(data)) == data


def test_only_what_changed_is_sent(shelf):
    whole = payload(shelf)
    assert [run["id"] for run in whole["runs"]] == whole["all"]
    nothing = payload(shelf, since=shelf.version)
    assert nothing["runs"] == []
    assert nothing["all"] == whole["all"]


def test_the_sum_of_what_moved_survives_thinning(tmp_path, write):
    write(tmp_path / "logs/a", rounds=500)
    (run,) = payload(Library([tmp_path / "logs"]).look())["runs"]
    assert len(run["model"]["round"]) < 500
    assert sum(run["model"]["changed"]) == pytest.approx(0.25 * 50)


def test_the_csv_has_a_line_per_run_and_the_figures_unrounded(shelf):
    header, *lines = runs_csv(shelf.runs, ["method_name", "rounds"]).splitlines()
    assert len(lines) == len(shelf.runs)
    assert len(set(header.split(","))) == len(header.split(","))
    run = next(run for run in shelf.runs if run.status == "done")
    assert repr(run.final["ema_acc_global"]) in next(line for line in lines if line.startswith(run.id))


def test_latex_s_own_letters_are_escaped(tmp_path, write, groups):
    row = latex_text(groups, "ema_acc_global", 0.5).splitlines()[5]
    assert re.match(r"feddst \$\\cdot\$ sparsity 0\.9 & \$[\d.]+ \\pm [\d.]+\$ & ", row)
    write(tmp_path / "logs/a", method="a_b&c%d#{$}~^\\")
    runs = Library([tmp_path / "logs"]).look().runs
    from pffdst.report.groups import group_runs, keys_of

    text = latex_text(group_runs(runs, keys_of(runs, ["method_name"])), "acc_global", None)
    assert r"a\_b\&c\%d\#\{\$\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in text


def test_pictures_of_nothing_are_pictures(tmp_path):
    assert len(write_pictures([], "acc_global", tmp_path)) == 7


def test_accuracies_on_validation_samples_are_called_so(tmp_path, write):
    write(tmp_path / "logs/a", validation_share=0.2)
    shelf = Library([tmp_path / "logs"]).look()
    assert payload(shelf)["accuracies"]["ema_acc_global"] == "server average, pooled validation set"
    assert "pooled validation set" in latex_text(grouped(shelf), "ema_acc_global", None)


def test_test_and_validation_share_no_group_whatever_is_asked(tmp_path, write):
    write(tmp_path / "logs/a", validation_share=0.2)
    write(tmp_path / "logs/b", validation_share=0, seed=1)
    shelf = Library([tmp_path / "logs"]).look()
    for wanted in (None, ["method_name"], []):
        assert [len(group.runs) for group in grouped(shelf, wanted)] == [1, 1]
    assert any("evaluated on validation" in group.label for group in grouped(shelf))


def grouped(shelf, wanted=None):
    from pffdst.report.groups import group_runs, keys_of

    return group_runs(shelf.runs, keys_of(shelf.runs, wanted))


def test_columns_named_after_validation_are_read(tmp_path, write):
    folder = write(tmp_path / "logs/a")
    before = Library([tmp_path / "logs"]).look().runs[0]
    path = folder / "metrics.csv"
    path.write_text(path.read_text().replace("test/", "val/"))
    after = Library([tmp_path / "logs"]).look().runs[0]
    assert list(after.rows) == list(before.rows)


def test_rows_are_thinned_for_pictures_and_never_for_figures(tmp_path, write):
    write(tmp_path / "logs/a", rounds=3000, every=1, layers=2)
    (run,) = payload(Library([tmp_path / "logs"]).look())["runs"]
    assert len(run["curves"]["round"]) == 3000
    assert len(run["model"]["round"]) == len(run["model"]["density"]["round"]) == 240


def test_every_part_of_a_message_is_drawn(shelf):
    parts = payload(shelf)["parts"]
    assert list(parts) == list(PART_WORDS)
    assert all(len(set(part["hues"])) == 2 for part in parts.values())


def test_no_name_of_the_page_is_taken_twice(text):
    """Its scripts are one: a second function of a name would replace the first without a word."""
    names = re.findall(r"^(?:async )?function (\w+)|^(?:const|let) (\w+)", scripts_of(text)[1], flags=re.MULTILINE)
    found = Counter("".join(pair) for pair in names)
    assert [name for name, count in found.items() if count > 1] == []
    assert len(found) > 100
