"""The page's server under many readers, idle ones and slow ones, and the page of a very long run.

    python benchmarks/page_server.py [--quick] [--results FOLDER]

100 readers ask at once for all figures of 20 runs; 200 connections say nothing and 50 never read their answer, after
which one more reader is timed; a run of 300,000 rounds, all evaluated, is written as a page.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from common import ROOT, console, describe, write_result
from pffdst.metrics import names
from synthetic_runs import write_run

_ENDS = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
_ENDS += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pffdst", "report", *words]


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def read(port: int) -> float:
    """Seconds until all figures are here."""
    began = time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/data.json", timeout=120) as answer:
        answer.read()
    return time.perf_counter() - began


def of(process: psutil.Process) -> dict[str, float]:
    return {"threads": process.num_threads(), "rss_mb": round(process.memory_info().rss / 1e6, 1)}


def silent(port: int, count: int, request: bytes) -> list[socket.socket]:
    """Connections that say `request` and then neither speak nor read."""
    made = []
    for _ in range(count):
        one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.connect(("127.0.0.1", port))
        one.sendall(request)
        made.append(one)
    return made


def served(runs: Path, readers: int, idle: int, slow: int) -> dict[str, Any]:
    port = free_port()
    with subprocess.Popen(command(str(runs), "--serve", str(port)), stdout=subprocess.DEVNULL, cwd=ROOT) as server:
        try:
            while True:
                try:
                    read(port)
                    break
                except OSError:
                    time.sleep(0.2)
            process, before = psutil.Process(server.pid), time.perf_counter()
            with ThreadPoolExecutor(readers) as pool:
                list(pool.map(read, [port] * readers))
            together = time.perf_counter() - before
            crowd = of(process)
            ask = f"GET /data.json HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
            held = [*silent(port, idle, b""), *silent(port, slow, ask)]
            time.sleep(1.0)
            beside = {**of(process), "one_more_reader_s": round(read(port), 3)}
            for one in held:
                one.close()
        finally:
            server.terminate()
    return {"readers": readers, "together_s": round(together, 3), **crowd, "beside_silent_ones": beside}


def lengthen(path: Path, rounds: int) -> None:
    """The rows of a run again and again, under the rounds that follow: to write each anew would take minutes."""
    title, *rows = path.read_text().splitlines()
    at = title.split(",").index(names.ROUND)
    with path.open("w") as file:
        file.write(title + "\n")
        for t in range(rounds):
            cells = rows[t % len(rows)].split(",")
            cells[at] = str(t + 1)
            file.write(",".join(cells) + "\n")


def written(folder: Path, rounds: int) -> dict[str, float]:
    """Seconds and peak memory of the whole command, imports included."""
    lengthen(write_run(folder / "long", rounds=min(rounds, 1000), every=1) / "metrics.csv", rounds)
    size = (folder / "long" / "metrics.csv").stat().st_size
    began = time.perf_counter()
    line = [sys.executable, "-c", _ENDS, *command(str(folder), "-o", str(folder / "page.html"))]
    peak = subprocess.run(line, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    seconds = time.perf_counter() - began
    unit = 1024 if sys.platform == "linux" else 1
    return {
        "rows": rounds,
        "metrics_mb": round(size / 1e6, 1),
        "seconds": round(seconds, 2),
        "peak_mb": round(int(peak) * unit / 1e6, 1),
        "page_mb": round((folder / "page.html").stat().st_size / 1e6, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks/results")
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with tempfile.TemporaryDirectory() as scratch:
        runs = Path(scratch, "runs")
        for seed in range(2 if given.quick else 20):
            write_run(runs / str(seed), seed=seed)
        crowd, rounds = ((10, 5, 3), 2000) if given.quick else ((100, 200, 50), 300_000)
        result = {"server": served(runs, *crowd), "page": written(Path(scratch, "one"), rounds)}
    console().print_json(json.dumps(result))
    write_result(given.results, "page_server", describe() | result)


if __name__ == "__main__":
    main()
