"""Texts of files: what is read, what is said of it, and what is kept."""

from __future__ import annotations

import csv
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate

from pffdst.config.compose import compose
from pffdst.data.dataset import DataError, Dataset
from pffdst.data.sources import tokens
from tests.text.conftest import CONFIGS, reviews, write_table

SST2 = Path(__file__).resolve().parents[2].parent / "shared/data"


def load(folder: Path, *overrides: str) -> Dataset:
    node = compose(
        ["logger=csv", "dataset=text", f"dataset.path={folder}", f"paths.cache={folder / 'cache'}", *overrides], CONFIGS
    ).dataset
    found: Dataset = instantiate(node).load(0)
    return found


def words(data: Dataset, split: str = "test") -> list[str]:
    """The texts as the tokenizer reads them back."""
    import tokenizers

    made, samples = tokenizers.Tokenizer.from_str(data.inputs.files()["tokenizer.json"]), getattr(data, split)
    return [made.decode(row) for row in samples.part(slice(0, None)).tolist()]


def test_words_are_labels_and_texts_come_back(films: Path, tmp_path: Path) -> None:
    data = load(films, f"paths.cache={tmp_path}")
    assert data.class_names == ("negative", "positive")
    assert words(data) == [text for text, _ in reviews(40, 1)]
    assert data.test.labels.tolist() == [0 if i % 2 else 1 for i in range(40)]
    assert data.inputs.arguments()["length"] == 128


@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_the_same_from_tsv_and_parquet(films: Path, tmp_path: Path, kind: str) -> None:
    for split, rows in (("train", reviews(160, 0)), ("test", reviews(40, 1))):
        path = tmp_path / f"{split}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"text": [r[0] for r in rows], "label": [r[1] for r in rows]}), path)
        else:
            path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    assert load(tmp_path).content == load(films, f"paths.cache={tmp_path / 'other'}").content


def test_numbered_once_and_kept_by_content(films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(films, f"paths.cache={tmp_path}")

    def never(*_: Any) -> None:
        raise AssertionError("numbered again")

    monkeypatch.setattr("pffdst.data.sources.text.numbered", never)
    monkeypatch.setattr("pffdst.data.sources.text.trained", never)
    again = load(films, f"paths.cache={tmp_path}")
    assert (again.content, again.inputs) == (first.content, first.inputs)
    assert again.inputs.files() == first.inputs.files()
    with pytest.raises(AssertionError, match="numbered again"):
        load(films, f"paths.cache={tmp_path}", "dataset.length=32")


def test_a_trained_tokenizer_is_the_same_in_another_process(films: Path) -> None:
    texts = [text for text, _ in reviews(160, 0)]
    program = (
        "import sys, json; from pffdst.data.sources.tokens import trained;"
        "print(trained(json.load(sys.stdin), 150, True).json)"
    )
    given = json.dumps(texts)
    other = subprocess.run([sys.executable, "-c", program], input=given, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == tokens.trained(texts, 150, True).json


def test_empty_and_long_texts_are_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*reviews(30, 0), ("", "negative"), ("   ", "positive"), ("film " * 300, "positive")]
    write_table(tmp_path / "train.csv", rows)
    write_table(tmp_path / "test.csv", reviews(4, 1))
    with caplog.at_level(logging.INFO):
        data = load(tmp_path)
    assert "train split: 2 of 33 texts are empty: they are kept as texts without words" in caplog.text
    assert "train split: 1 of 33 texts are longer than dataset.length=128 tokens: they are cut there" in caplog.text
    assert "test split" not in caplog.text
    assert data.train.lengths.tolist()[-3:] == [2, 2, 128]  # what opens and what closes a text


Break = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("change", "overrides", "said"),
    [
        (lambda f: None, ["dataset.files.text=review"], "there is no column 'review'; its columns are text, label"),
        (lambda f: None, ["dataset.files.label=stars"], "write dataset.files.label=COLUMN"),
        (
            lambda f: write_table(f / "train.csv", [("a", "b", 1)], ("title", "body", "stars")),
            [],
            "cannot tell which column is the text, which must be words; its columns are title (string), body (string), "
            "stars (int64): write dataset.files.text=",
        ),
        (lambda f: write_table(f / "train.csv", [("a film", 0.5)]), [], "labels must be integers or words"),
        (
            lambda f: write_table(f / "train.csv", [("a film", "good"), ("b", "")]),
            [],
            "row 1: the cell of column 'label' is empty",
        ),
        (lambda f: write_table(f / "train.csv", []), [], "it has no rows"),
        (lambda f: (f / "train.csv").write_text('text,label\n"a",1,2\nb\n'), [], "the csv file cannot be read"),
        (lambda f: (f / "train.csv").unlink(), [], "no file in .* matches dataset.files.train="),
        (lambda f: None, ["dataset.length=2"], "dataset.length, the maximum tokens per text, must be 4 or more"),
        (lambda f: None, ["dataset.vocabulary=9"], "dataset.vocabulary must be 100 tokens or more, got 9"),
        (lambda f: None, ["dataset.tokenizer=/nowhere"], "dataset.tokenizer must name a folder with a tokenizer"),
        (lambda f: None, ["dataset.classes=3"], "dataset.classes=3, but the labels have 2 values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, change: Break, overrides: list[str], said: str) -> None:
    for seed, split in enumerate(("train", "test")):
        write_table(tmp_path / f"{split}.csv", reviews(8, seed))
    change(tmp_path)
    with pytest.raises(DataError, match=re.sub(r"[\[\]()]", ".", said)) as refused:
        load(tmp_path, *overrides)
    assert "\n" not in str(refused.value)


def test_a_line_of_a_tsv_is_a_row_although_a_text_begins_with_a_mark(tmp_path: Path) -> None:
    """Read as quotes, the marks would join rows: five lines would become three, in silence."""
    texts = ['"a film', "dull", '"cold and long', "the story", 'of "its" actors']
    rows = [f"{text}\t{i % 2}" for i, text in enumerate(texts)]
    (tmp_path / "train.tsv").write_text("\r\n".join(["text\tlabel", *rows, ""]))
    (tmp_path / "test.tsv").write_text("text\tlabel\nfilm\t0\n")
    data = load(tmp_path)
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0]
    assert [text.replace(" ", "") for text in words(data, "train")] == [text.replace(" ", "") for text in texts]


def test_quotes_in_a_tsv_hold_tabs_line_breaks_and_marks(tmp_path: Path) -> None:
    with (tmp_path / "train.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(
            [("text", "label"), ("a\tfilm", 0), ("a\nlong story", 1), ('"a"', 0)]
        )
    (tmp_path / "test.tsv").write_text("text\tlabel\nfilm\t0\n")
    assert words(load(tmp_path), "train") == ["a film", "a long story", '" a "']


def test_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,label\nfilm,0\n")
    (tmp_path / "train.csv").write_bytes("text,label\ngrößer,0\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"train\.csv: column 'text' is not in UTF-8"):
        load(tmp_path)


def test_a_folder_without_a_tokenizer_is_told(films: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match="contains no readable tokenizer") as refused:
        load(films, f"paths.cache={tmp_path / 'cache'}", f"dataset.tokenizer={tmp_path}")
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not (SST2 / "sst2_train.parquet").is_file(), reason="SST-2 is not here")
def test_sst2_is_read_as_it_lies(tmp_path: Path) -> None:
    """Its development set alone: all of it takes half a minute."""
    asked = ["dataset=sst2", f"dataset.path={SST2}", f"paths.cache={tmp_path}", "dataset.vocabulary=2000"]
    node = compose(
        ["logger=csv", *asked, "dataset.files.train=sst2_test*.parquet", "dataset.files.test=null"], CONFIGS
    ).dataset
    data: Dataset = instantiate(node).load(0)
    assert (len(data.train), data.class_names) == (872, ("0", "1"))
    assert round(float((data.train.labels == 1).double().mean()), 3) == 0.509
    assert any("charming and often affecting journey" in text for text in words(data, "train"))
