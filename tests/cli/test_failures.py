"""What the machine lacks is one line with the file and the next step; a bug keeps its traceback."""

import errno
import os

import pytest

from pffdst.cli import main as main_module
from pffdst.cli.failures import user_error
from pffdst.config.constructors import locate
from pffdst.core.errors import UserError


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO, errno.EEXIST]
)
def test_a_disk_that_will_not_is_told_with_the_file_and_what_to_do(number):
    told = str(user_error(OSError(number, os.strerror(number), "/logs/run/metrics.csv")))
    assert told.startswith(f"/logs/run/metrics.csv: {os.strerror(number)}: ")
    assert "resume=FOLDER" in told
    assert "\n" not in told


def test_too_few_open_files_says_how_to_have_more():
    assert "ulimit -n 1024" in str(user_error(OSError(errno.EMFILE, "Too many open files")))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_told_as_that(error):
    assert "not enough memory" in str(user_error(error))


def test_what_was_raised_of_it_is_told_as_its_cause():
    error = RuntimeError("wrapped")
    error.__cause__ = UserError("write a=1")
    assert str(user_error(error)) == "write a=1"


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "gone")])
def test_a_bug_is_none_of_them(error):
    assert user_error(error) is None


def test_every_command_tells_what_the_machine_lacks(tmp_path, monkeypatch, capsys):
    (tmp_path / "full.py").write_text("def main(given):\n    raise PermissionError(13, 'Permission denied', given[0])")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(main_module._COMMANDS, "report", ("full", "as good as any"))
    assert main_module.main(["report", "/x.html"]) == 2
    assert capsys.readouterr().err == "report: /x.html: Permission denied: choose a writable folder\n"


def test_a_package_that_cannot_be_loaded_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.py").write_text('raise ImportError("libcudnn.so.9: cannot open shared object file")')
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(main_module._COMMANDS, "train", ("broken", "as good as any"))
    assert main_module.main(["train", "rounds=1"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "libcudnn.so.9" in told
    assert "fresh virtual environment" in told


def test_a_configuration_is_not_to_blame_for_want_of_memory(tmp_path, monkeypatch):
    (tmp_path / "large.py").write_text("raise MemoryError")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(MemoryError):
        locate("large.Model")


def test_a_library_for_which_there_is_no_room_is_one_line(monkeypatch, capsys):
    def fails(name):
        raise ImportError("libtorch_cpu.so: failed to map segment from shared object")

    monkeypatch.setattr("importlib.import_module", fails)
    assert main_module.main(["train"]) == 2
    assert capsys.readouterr().err.startswith("There is not enough memory (libtorch_cpu.so: failed to map")


def test_a_name_that_is_too_long_is_one_line() -> None:
    told = str(user_error(OSError(errno.ENAMETOOLONG, "File name too long", "/logs/" + "x" * 256)))
    assert "File name too long: choose a shorter name" in told
