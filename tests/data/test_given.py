"""Clients that the data or a file name."""

import re
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pffdst.build import build
from pffdst.config.compose import compose
from pffdst.data.clients.divided import Dirichlet, Iid, PartitionError
from pffdst.data.clients.drawn import Drawn
from pffdst.data.clients.given import ByColumn, FromFile, write_clients
from pffdst.data.clients.owned import facts_of
from pffdst.data.dataset import image_dataset
from pffdst.data.samples import ImageSet

LABELS = torch.arange(40) % 4
TEST_LABELS = torch.arange(12) % 4


def held(labels, owners=None):
    """Samples as a partition knows them."""
    return SimpleNamespace(labels=labels, owners=owners)


@pytest.fixture
def written(tmp_path):
    """A file of clients with this text, as partition=file reads it."""

    def write(text, name="clients.csv"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return FromFile(str(tmp_path / name))

    return write


def split(way, clients, train=LABELS, test=TEST_LABELS):
    return way.split(held(train), held(test), clients, 4, 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=40), st.data())
def test_natural_clients_hold_their_own_samples(owners, data):
    owners = torch.unique(torch.tensor(owners), return_inverse=True)[1]
    clients = int(owners.max()) + 1
    tests = torch.tensor(data.draw(st.lists(st.integers(0, clients - 1), min_size=1, max_size=10)))
    found = ByColumn("writer").split(
        held(LABELS[: len(owners)], owners), held(LABELS[: len(tests)], tests), clients, 4, 0
    )
    for client in range(clients):
        assert torch.equal(found.train(client), (owners == client).nonzero().flatten())
    assert torch.equal(found.test_owner(), tests)


def test_test_samples_without_owners_follow_the_classes():
    owners = (LABELS >= 2).long()  # client 0 has the classes 0 and 1, client 1 the others
    found = ByColumn("writer").split(held(LABELS, owners), held(TEST_LABELS), 2, 4, 0)
    assert torch.equal(found.test_owner(), (TEST_LABELS >= 2).long())


def test_the_number_of_natural_clients_is_told():
    (line,) = ByColumn("writer").problems(facts_of(held(LABELS, LABELS), 20))
    assert line == "clients=20, but the data name 4 clients; write clients=4"
    (line,) = ByColumn("writer").problems(facts_of(held(LABELS), 4))
    assert "partition.column=writer: these data have no column that names their clients" in line
    with pytest.raises(PartitionError, match="write clients=4"):
        ByColumn("writer").split(held(LABELS, LABELS), held(TEST_LABELS), 3, 4, 0)


@pytest.mark.parametrize("kind", ["csv", "npz"])
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(way=st.sampled_from([Iid(), Dirichlet(0.2, 2, 3), Drawn(0.3, 9, 0.5, 2, 100)]), clients=st.integers(1, 12))
def test_what_was_written_reads_the_same(tmp_path_factory, kind, way, clients):
    path = tmp_path_factory.mktemp("clients") / f"deep/clients.{kind}"
    before = split(way, clients)
    write_clients(before, path)
    content = path.read_bytes()
    after = split(FromFile(str(path)), clients)
    for client in range(clients):
        assert torch.equal(after.train(client), before.train(client))  # in the same order: batches are drawn from it
    assert torch.equal(after.test_owner(), before.test_owner())
    write_clients(after, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["csv", "npz"])
def test_a_file_that_holds_another_division_is_kept(tmp_path, kind):
    path = tmp_path / f"clients.{kind}"
    write_clients(split(Iid(), 4), path)
    before = path.read_bytes()
    with pytest.raises(PartitionError, match="has different contents; remove it, or name another file"):
        write_clients(split(Iid(), 5), path)
    assert path.read_bytes() == before
    with pytest.raises(PartitionError, match="cannot be written"):
        write_clients(split(Iid(), 5), path / "below.csv")


def test_names_are_in_order_and_unnamed_samples_are_nobodys(written):
    way = written("client,index\np10,7\np9,3\np10,2\n")
    assert way.problems(facts_of(held(LABELS), 2)) == []
    found = split(way, 2)
    assert [found.train(k).tolist() for k in range(2)] == [[7, 2], [3]]
    assert sorted(set(found.test_owner().tolist())) == [0, 1]  # divided by the classes: no test row is listed


def held_out(share, seed):
    """A data set of the labels whose every image is its number, with a share of it held out."""
    images = torch.arange(len(LABELS), dtype=torch.uint8).view(-1, 1, 1, 1)
    test = ImageSet(images[:4], LABELS[:4])
    whole = image_dataset("toy", ImageSet(images, LABELS), test, tuple("abcd"), (0.5,), (0.5,))
    return whole.with_validation(share, seed)


def rows_of(samples, indices):
    return samples.images[indices].flatten().tolist()


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.1, 0.6), seed=st.integers(0, 99), listed=st.booleans())
def test_held_out_samples_are_left_out_of_the_lists_and_nothing_else_moves(tmp_path_factory, share, seed, listed):
    """A file's numbers are those of the whole training split, of which a run with a validation share sees a part."""
    path = tmp_path_factory.mktemp("clients") / "mine.csv"
    order = np.random.default_rng(seed).permutation(len(LABELS))[: None if listed else -1]
    path.write_text("index,client\n" + "".join(f"{row},{'ab'[row % 2]}\n" for row in order))
    data = held_out(share, seed)
    found = FromFile(str(path)).split(*data.divisible, 2, 4, 0)
    trained = set(data.train.images.flatten().tolist())
    for client in range(2):
        expected = [row for row in order.tolist() if row % 2 == client and row in trained]
        assert rows_of(data.train, found.train(client)) == expected
    if listed:
        assert found.test_owner().tolist() == [row % 2 for row in data.test.images.flatten().tolist()]


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(way=st.sampled_from([Iid(), Dirichlet(0.2, 2, 3)]), share=st.floats(0.1, 0.6))
def test_what_was_written_beside_held_out_samples_reads_the_same(tmp_path_factory, way, share):
    path = tmp_path_factory.mktemp("clients") / "clients.csv"
    data = held_out(share, 0)
    before = way.split(*data.divisible, 5, 4, 0)
    write_clients(before, path, data.rows)
    after = FromFile(str(path)).split(*data.divisible, 5, 4, 0)
    whole = split(FromFile(str(path)), 5)  # without a share: the held out samples are their clients' too
    for client in range(5):
        assert torch.equal(after.train(client), before.train(client))
        held = rows_of(data.test, (before.test_owner() == client).nonzero().flatten())
        assert whole.train(client).tolist() == rows_of(data.train, before.train(client)) + held
    assert torch.equal(after.test_owner(), before.test_owner())


def test_a_client_whose_every_sample_is_held_out_is_told(written):
    data = held_out(0.5, 0)
    gone = int(data.test.images.flatten()[0])
    way = written("index,client\n" + "".join(f"{row},{'b' if row == gone else 'a'}\n" for row in range(len(LABELS))))
    with pytest.raises(PartitionError, match="client b has no training sample that is not held out; write a smaller"):
        way.split(*data.divisible, 2, 4, 0)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_as_spreadsheets_write_it(written, mark, between, end):
    rows = [("split", "index", "client"), ("train", 0, "ärztin"), ("train", 1, "b"), ("", "", "")]
    text = mark + end.join(between.join(map(str, row)) for row in rows[:3]) + end
    found = split(written(text), 2)
    assert [found.train(k).tolist() for k in range(2)] == [[1], [0]]


def test_arrays_made_by_hand(tmp_path):
    np.savez(tmp_path / "mine.npz", index=np.arange(40), client=np.arange(40) % 3)
    found = split(FromFile(str(tmp_path / "mine.npz")), 3)
    assert found.sizes().tolist() == [14, 13, 13]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("a,b\n1,2\n", "it needs the columns index and client"),
        ("index,client\n1\n", "cannot be read"),
        ("index,client\n1.5,a\n", "cannot be read"),
        ("index,client\n", "cannot be read"),
        ("split,index,client\nvalid,1,a\n", "has an unknown split 'valid'; write train or test"),
        ("split,index,client\ntrain,1,a\ntest,1,b\n", "client b has no training sample"),
        ("index,client\n1,a\n40,a\n", "lists train sample 40, but there are 40, numbered from 0"),
        ("index,client\n-1,a\n", "lists train sample -1"),
        ("split,index,client\ntrain,1,a\ntest,0,a\n", "lists test sample 1 0 times; each must belong to one client"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_files_that_are_no_list_of_clients(written, text, message):
    way = written(text)
    with pytest.raises(PartitionError, match=re.escape(message)):
        split(way, 1)


def test_arrays_that_are_no_list_of_clients(tmp_path, written):
    for content in (b"", b"PK\x03\x04 broken", b"no numpy"):
        assert "cannot be read" in written(content, "x.npz").problems(facts_of(held(LABELS), 1))[0]
    np.savez(tmp_path / "f.npz", index=np.array([0.5]), client=np.array([1]))
    assert "index contains float64" in FromFile(str(tmp_path / "f.npz")).problems(facts_of(held(LABELS), 1))[0]
    np.savez(tmp_path / "o.npz", index=np.array([0]), client=np.array([object()]))
    assert "cannot be read" in FromFile(str(tmp_path / "o.npz")).problems(facts_of(held(LABELS), 1))[0]


def test_settings_are_refused_before_the_data_are_read(tmp_path, written):
    with pytest.raises(PartitionError, match=r"Expected `partition\.path` to name a file, but there is no"):
        FromFile(str(tmp_path / "gone.csv"))
    for make in (lambda: FromFile("x.txt"), lambda: Iid(save="x.txt"), lambda: Drawn(0.3, 9, 0.5, 2, 9, save="x")):
        with pytest.raises(PartitionError, match=r"to end in \.csv or \.npz, but got x"):
            make()


def test_the_files_content_is_part_of_what_it_says(written):
    one, two = written("index,client\n0,a\n", "1.csv"), written("index,client\n1,a\n", "2.csv")
    assert one.content != two.content
    assert one.content == written("index,client\n0,a\n", "3.csv").content


def test_a_column_of_the_shards_names_the_clients(tmp_path, encode, config_dir):
    """The whole way: python train.py dataset=parquet partition=column partition.column=writer."""
    rng, names = np.random.default_rng(0), np.array([f"w{n}" for n in (10, 9, 2)])
    for split_name, count in (("train", 60), ("test", 12)):
        images = [encode(rng.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(count)]
        who, labels = names[np.arange(count) % 3], np.arange(count) % 4
        rows = pa.table({"image": images, "label": labels, "writer": pa.array(who.tolist()).dictionary_encode()})
        pq.write_table(rows, tmp_path / f"{split_name}.parquet")
    own = ["logger=csv", "dataset=parquet", f"dataset.path={tmp_path}", f"paths.cache={tmp_path / 'cache'}"]
    named = ["partition=column", "partition.column=writer", "clients=3", "cohort=2", "engine.workers=0"]
    setup = build(compose([*own, *named], config_dir), tmp_path / "run", "test").setup
    order = ["w10", "w2", "w9"]
    assert [setup.indices(k).tolist() for k in range(3)] == [
        [i for i in range(60) if names[i % 3] == name] for name in order
    ]


def test_a_run_on_a_written_division_is_the_same_run(tmp_path, make_experiment):
    path = tmp_path / "clients.csv"
    first = make_experiment("partition=dirichlet", f"partition.save={path}")
    second = make_experiment("partition=file", f"partition.path={path}")
    for client in range(5):
        assert torch.equal(first.setup.indices(client), second.setup.indices(client))
    assert torch.equal(first.evaluator._owner, second.evaluator._owner)
