"""torchvision's formats, with small files whose checksums take the place of the official ones."""

import contextlib
import gzip
import hashlib
import http.server
import pickle
import re
import socket
import tarfile
import threading
import time

import numpy as np
import pytest
import torchvision.datasets as official

from pffdst.data.dataset import DataError
from pffdst.data.sources import archive
from pffdst.data.sources.archive import ARCHIVES, Archive


def _md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """An unpacked CIFAR-10 of 5 x 4 training and 4 test images under tmp_path/data, and its tar beside that folder."""
    rng, folder = np.random.default_rng(0), tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        pixels, labels = rng.integers(0, 256, (4, 3072), dtype=np.uint8), rng.integers(0, 10, 4).tolist()
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    kind = official.CIFAR10
    monkeypatch.setattr(kind, "train_list", [[n, _md5(folder / n)] for n, _ in kind.train_list])
    monkeypatch.setattr(kind, "test_list", [[n, _md5(folder / n)] for n, _ in kind.test_list])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": _md5(folder / "batches.meta")})
    packed = tmp_path / kind.filename
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(folder, folder.name)
    monkeypatch.setattr(kind, "tgz_md5", _md5(packed))
    return folder


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """A packed MNIST of 6 training and 3 test images under tmp_path/data."""
    rng, raw = np.random.default_rng(1), tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, count in (("train", 6), ("t10k", 3)):
        pixels, labels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), np.arange(count, dtype=np.uint8)
        for name, array in ((f"{split}-images-idx3-ubyte.gz", pixels), (f"{split}-labels-idx1-ubyte.gz", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            (raw / name).write_bytes(gzip.compress(header + array.tobytes()))
    resources = [(name, _md5(raw / name)) for name, _ in official.MNIST.resources]
    monkeypatch.setattr(official.MNIST, "resources", resources)
    return raw


def _check_cifar(loaded, folder):
    train, test, names = loaded
    assert names == tuple(str(i) for i in range(10))
    entries = [pickle.loads((folder / f"data_batch_{i}").read_bytes()) for i in range(1, 6)]
    assert np.array_equal(train.images.numpy(), np.concatenate([e["data"] for e in entries]).reshape(-1, 3, 32, 32))
    assert train.labels.tolist() == [label for e in entries for label in e["labels"]]
    assert test.images.shape == (4, 3, 32, 32)


def _names(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_unpacked_cifar(tmp_path, cifar):
    found = Archive("CIFAR10", tmp_path / "data")
    assert found.present()
    _check_cifar(found.load(), cifar)


@pytest.mark.parametrize("leftover", [False, True])
def test_packed_cifar_is_unpacked(tmp_path, cifar, leftover):
    root = tmp_path / "other"
    root.mkdir()
    (tmp_path / official.CIFAR10.filename).rename(root / official.CIFAR10.filename)
    if leftover:  # what an unpacking leaves that was killed half way
        (root / cifar.name).mkdir()
        (root / cifar.name / "data_batch_1").write_bytes(b"cut")
    found = Archive("CIFAR10", root)
    assert found.present()
    _check_cifar(found.load(), cifar)
    assert _names(root / cifar.name) == _names(cifar)
    assert len(list(root.iterdir())) == 2


def test_damaged_cifar_archive_is_named(tmp_path, cifar):
    packed = tmp_path / "other" / official.CIFAR10.filename
    packed.parent.mkdir()
    packed.write_bytes((tmp_path / packed.name).read_bytes()[:-10])
    with pytest.raises(DataError, match=re.escape(f"{packed} is damaged: its md5 is not")):
        Archive("CIFAR10", packed.parent).load()
    assert _names(packed.parent) == [packed.name]


def test_damaged_and_missing_batches_are_named(tmp_path, cifar):
    (cifar / "data_batch_3").write_bytes(b"cut")
    with pytest.raises(DataError, match="data_batch_3 is damaged"):
        Archive("CIFAR10", tmp_path / "data").load()
    (cifar / "data_batch_3").unlink()
    found = Archive("CIFAR10", tmp_path / "data")
    assert not found.present()
    with pytest.raises(DataError, match=r"data_batch_3 is missing, and so is .*tar.gz"):
        found.load()


def test_a_file_that_is_whole_but_senseless(tmp_path, cifar, monkeypatch):
    (cifar / "test_batch").write_bytes(b"no pickle")
    monkeypatch.setattr(official.CIFAR10, "test_list", [["test_batch", _md5(cifar / "test_batch")]])
    with pytest.raises(DataError, match=r"CIFAR10 in .* cannot be read"):
        Archive("CIFAR10", tmp_path / "data").load()


@pytest.mark.parametrize("times", [1, 2])
def test_packed_mnist_is_unpacked_once(tmp_path, mnist, times):
    for _ in range(times):
        train, test, names = Archive("MNIST", tmp_path / "data").load()
    pixels = np.frombuffer(gzip.decompress((mnist / "train-images-idx3-ubyte.gz").read_bytes())[16:], dtype=np.uint8)
    assert np.array_equal(train.images.numpy().ravel(), pixels)
    assert train.images.shape == (6, 1, 28, 28)
    assert (train.labels.tolist(), test.labels.tolist()) == ([*range(6)], [*range(3)])
    assert names[7] == "7 - seven"
    assert len(list(mnist.iterdir())) == 8


@pytest.mark.parametrize(
    "content", [b"", b"\0\0", bytes([0, 0, 8, 3]) + b"\0\0\0\x06", bytes([0, 0, 9, 1, 0, 0, 0, 0])]
)
def test_cut_mnist_files_are_replaced_from_the_packed_ones_or_named(tmp_path, mnist, content):
    found, name = Archive("MNIST", tmp_path / "data"), "train-images-idx3-ubyte"
    (mnist / name).write_bytes(content)
    assert len(found.load()[0]) == 6
    (mnist / name).write_bytes(content)
    (mnist / f"{name}.gz").unlink()
    with pytest.raises(DataError, match=f"{name} is damaged: its checksum or length is wrong"):
        found.load()


def test_damaged_mnist_archive_is_named(tmp_path, mnist):
    (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz is damaged: its md5 is not"):
        Archive("MNIST", tmp_path / "data").load()


@contextlib.contextmanager
def _server(content, announced=None):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) if announced is None else announced))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/cifar-10-python.tar.gz"
        finally:
            server.shutdown()


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")


def test_download(tmp_path, cifar, monkeypatch, no_proxy):
    root = tmp_path / "new" / "data"
    with _server((tmp_path / official.CIFAR10.filename).read_bytes()) as url:
        monkeypatch.setattr(official.CIFAR10, "url", url)
        assert Archive("CIFAR10", root).download() is None
    assert sorted(p.name for p in root.iterdir()) == [cifar.name, official.CIFAR10.filename]
    _check_cifar(Archive("CIFAR10", root).load(), cifar)


def test_a_download_that_breaks_off_leaves_nothing(tmp_path, cifar, monkeypatch, no_proxy):
    content = (tmp_path / official.CIFAR10.filename).read_bytes()
    with _server(content[:-100], announced=len(content)) as url:
        monkeypatch.setattr(official.CIFAR10, "url", url)
        assert "corrupted" in Archive("CIFAR10", tmp_path / "new" / "data").download()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["CIFAR10", "MNIST"])
def test_no_network_leaves_nothing(tmp_path, monkeypatch, no_proxy, kind):
    monkeypatch.setattr(official.CIFAR10, "url", "http://127.0.0.1:9/x.tar.gz")
    monkeypatch.setattr(official.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    root = tmp_path / "kept"
    root.mkdir()
    assert "refused" in Archive(kind, root).download()
    assert list(root.iterdir()) == []


def test_a_network_that_never_answers_is_given_up(tmp_path, monkeypatch, no_proxy):
    monkeypatch.setattr(archive, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(official.CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/x.tar.gz")
        began = time.monotonic()
        assert "timed out" in Archive("CIFAR10", tmp_path).download()
    assert time.monotonic() - began < 5
    assert socket.getdefaulttimeout() is None


def test_every_archive_says_what_it_expects(tmp_path):
    for kind in ARCHIVES:
        found = Archive(kind, tmp_path)
        assert not found.present()
        assert ".gz (or unpacked: " in found.expected()
    assert (
        Archive("CIFAR10", tmp_path)
        .expected()
        .startswith("cifar-10-python.tar.gz (or unpacked: cifar-10-batches-py/data_batch_1, ")
    )
