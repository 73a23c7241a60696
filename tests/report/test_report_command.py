"""python -m pffdst.report."""

import re
import subprocess
import sys

import pytest

from pffdst.report.__main__ import main


def test_it_writes_what_it_is_asked_for(logs, tmp_path, capsys):
    files = ["--png", f"{tmp_path}/png", "--csv", f"{tmp_path}/t/runs.csv", "--latex", f"{tmp_path}/methods.tex"]
    assert main([str(logs), "-o", f"{tmp_path}/page/report.html", *files]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"png", "t", "page", "methods.tex"}
    pictures = list((tmp_path / "png").iterdir())
    assert len(pictures) == 7
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in pictures)
    said = capsys.readouterr().out
    assert re.search(r"19 runs: \d+ done", said)
    assert "damaged/failed: failed, dataset.path=/nowhere" in said
    assert re.search(r"report.html \(\d\.\d\d MB\)", said)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["EMPTY"], "no runs there"),
        (["LOGS", "--group-by", "sparsty"], "--group-by sparsty: no run has such a key"),
        (["LOGS", "--level", "0"], "--level 0: write an accuracy in percent"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_before_any_work(logs, tmp_path, capsys, arguments, words):
    (tmp_path / "empty").mkdir()
    places = {"LOGS": str(logs), "EMPTY": str(tmp_path / "empty")}
    assert main([*(places.get(each, each) for each in arguments), "-o", f"{tmp_path}/r.html"]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_page_that_is_served_is_written_too_if_asked_for(logs, tmp_path, monkeypatch):
    monkeypatch.setattr("pffdst.report.__main__.serve", lambda given, library: None)
    monkeypatch.chdir(tmp_path)
    assert main([str(logs), "--serve", "0"]) == 0
    assert not (tmp_path / "report.html").exists()
    assert main([str(logs), "--serve", "0", "-o", "r.html"]) == 0
    assert (tmp_path / "r.html").exists()


def test_it_starts_without_torch():
    code = "import sys, pffdst.report.__main__; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_pictures_without_matplotlib_say_what_to_install(logs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("pffdst.report.__main__.find_spec", lambda name: None)
    assert main([str(logs), "-o", f"{tmp_path}/r.html", "--png", f"{tmp_path}/figures"]) == 2
    assert "pip install 'pffdst[figures]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
