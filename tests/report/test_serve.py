"""The server answers this machine alone, with what changed alone."""

import gzip
import json
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from pffdst.core.errors import UserError
from pffdst.report.library import Library
from pffdst.report.payload import payload
from pffdst.report.serve import HOST, open_server


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
