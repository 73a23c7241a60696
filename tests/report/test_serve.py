"""The server answers this machine alone, with what changed alone."""

import contextlib
import gzip
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from pffdst.core.errors import UserError
from pffdst.report.library import Library
from pffdst.report.payload import payload
from pffdst.report.serve import HOST, Answers, open_server


@contextmanager
def served(logs):
    library = Library([logs])
    with open_server(lambda since: payload(library.look(), since), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def asked(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
        body = answer.read()
        return gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body


def news(url, state):
    return json.loads(asked(f"{url}/data.json?since={state['version']}&session={state['session']}"))


def test_a_page_hears_of_what_changed_and_no_more(tmp_path, write):
    write(tmp_path / "logs/a")
    write(tmp_path / "logs/b", seed=1)
    with served(tmp_path / "logs") as url:
        assert b'data-mode="live"' in asked(url, **{"Accept-Encoding": "gzip"})
        first = json.loads(asked(f"{url}/data.json"))
        assert [run["id"] for run in first["runs"]] == ["a", "b"]
        assert news(url, first)["runs"] == []
        write(tmp_path / "logs/c", seed=2)
        second = news(url, first)
        assert [run["id"] for run in second["runs"]] == ["c"]
        assert second["all"] == ["a", "b", "c"]


def test_a_page_of_an_earlier_server_gets_everything(tmp_path, write):
    write(tmp_path / "logs/a")
    with served(tmp_path / "logs") as url:
        assert len(news(url, {"version": 10**6, "session": "another"})["runs"]) == 1


@pytest.mark.parametrize(
    ("path", "headers", "code"), [("/", {"Host": "evil.example:80"}, 403), ("/etc/passwd", {}, 404)]
)
def test_foreign_names_and_other_paths_are_refused(tmp_path, write, path, headers, code):
    write(tmp_path / "logs/a")
    with served(tmp_path / "logs") as url:
        with pytest.raises(urllib.error.HTTPError) as error:
            asked(url + path, **headers)
        assert error.value.code == code
        error.value.close()


def test_a_port_that_is_taken_is_one_clear_error(tmp_path, write):
    write(tmp_path / "logs/a")
    with served(tmp_path / "logs") as url, pytest.raises(UserError, match=r"the port cannot be used"):
        open_server(lambda since: {}, int(url.rpartition(":")[2]))


def test_it_listens_on_the_loopback_interface_alone():
    with open_server(lambda since: {}, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def raw(url, text, seconds=20):
    with socket.create_connection((HOST, int(url.rpartition(":")[2])), timeout=seconds) as line:
        line.sendall(text.encode())
        return line.recv(200).decode()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "127.0.0.1:443"])
def test_a_host_without_its_port_is_this_machine_too(tmp_path, write, host):
    write(tmp_path / "logs/a")
    with served(tmp_path / "logs") as url:
        assert "200" in raw(url, f"GET /data.json HTTP/1.1\r\nHost: {host}\r\n\r\n").splitlines()[0]


def test_what_is_no_address_is_refused_in_words(tmp_path, write, capfd):
    write(tmp_path / "logs/a")
    with served(tmp_path / "logs") as url:
        assert "400" in raw(url, "GET http://[evil/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").splitlines()[0]
        assert "200" in raw(url, f"GET /data.json?since={'9' * 5000} HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert "Traceback" not in capfd.readouterr().err


def test_a_hundred_readers_at_once_are_all_answered(tmp_path, write):
    write(tmp_path / "logs/a")
    with served(tmp_path / "logs") as url, ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: asked(url, **{"Accept-Encoding": "gzip"}), range(100)))
        assert len({len(each) for each in answers}) == 1
        assert b'data-mode="live"' in answers[0]


def test_readers_that_say_or_read_nothing_stand_in_nobody_s_way(tmp_path, write):
    write(tmp_path / "logs/a")
    before = threading.active_count()  # other tests leave threads of their libraries
    with served(tmp_path / "logs") as url, contextlib.ExitStack() as opened:
        port = int(url.rpartition(":")[2])
        lines = [opened.enter_context(socket.create_connection((HOST, port))) for _ in range(120)]
        for line in lines[100:]:
            line.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert json.loads(asked(f"{url}/data.json"))["all"] == ["a"]
        assert threading.active_count() - before < 50


def test_the_answers_of_those_who_ask_at_once_are_made_once():
    made, begun = [], threading.Event()

    def slow(since):
        made.append(since)
        begun.set()
        time.sleep(0.3)
        return {"version": 7}

    answers = Answers(slow)
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(answers.data, 0)
        begun.wait(5)
        rest = [pool.submit(answers.data, 0) for _ in range(19)]
        assert len({each.result() for each in [first, *rest]}) == 1
    assert len(made) == 3  # two looks, of which the second served nineteen, and one answer
