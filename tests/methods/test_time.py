"""Devices and links: the formula, the distribution of the draws, the file."""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path

import pytest
from scipy.stats import kstest

from pffdst.core.device import Device
from pffdst.core.errors import UserError
from pffdst.core.facts import Facts
from pffdst.methods.time import FromFile, Links, Untimed


def test_a_turn_is_bytes_over_links_and_operations_over_the_device() -> None:
    device = Device(up=1.0, down=10.0, flops=2.0)
    assert device.seconds(up=125_000) == pytest.approx(1.0)  # a Mbit
    assert device.seconds(down=1_250_000) == pytest.approx(1.0)
    assert device.seconds(flops=2 * 10**9) == pytest.approx(1.0)
    assert device.seconds(down=1_250_000, flops=4 * 10**9, up=125_000) == pytest.approx(4.0)


def test_without_spread_all_clients_are_the_same() -> None:
    assert {Links(1.0, 10.0, 5.0).device(client, 0) for client in range(50)} == {Device(1.0, 10.0, 5.0)}


def test_speeds_are_log_normal_and_of_one_factor_for_both_directions() -> None:
    model = Links(1.0, 10.0, 5.0, link_spread=0.5, device_spread=1.0)
    devices = [model.device(client, 3) for client in range(2000)]
    assert all(d.down == pytest.approx(10 * d.up) for d in devices)
    link = [math.log(d.up) / 0.5 for d in devices]
    speed = [math.log(d.flops / 5) for d in devices]
    assert kstest(link, "norm").pvalue > 1e-3
    assert kstest(speed, "norm").pvalue > 1e-3
    assert abs(statistics.correlation(link, speed)) < 0.1
    assert devices[7] == model.device(7, 3) != model.device(7, 4)


def test_a_model_that_knows_nothing_says_so() -> None:
    assert Untimed().device(3, 0) is None


def test_devices_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "devices.csv"
    path.write_text("client;up;down;flops\n1;2;20;30\n0;1;10;8\n")
    model = FromFile(str(path))
    assert [model.device(client, 0) for client in (0, 1)] == [Device(1, 10, 8), Device(2, 20, 30)]
    assert model.problems(Facts(clients=2)) == []
    assert "has no line for client 2" in model.problems(Facts(clients=3))[0]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        ("0,1,10,0", "line 2: speeds must be above 0"),
        ("0,1,10,5\n0,1,10,5", "line 3: client 0 is not a whole number or already has a line"),
        ("0,1,ten,5", "line 2: down is 'ten'; write a number"),
    ],
)
def test_a_file_that_cannot_be_is_told_by_its_line(tmp_path: Path, lines: str, wrong: str) -> None:
    path = tmp_path / "devices.csv"
    path.write_text(f"client,up,down,flops\n{lines}\n")
    with pytest.raises(UserError, match=re.escape(wrong)):
        FromFile(str(path)).device(0, 0)


@pytest.mark.parametrize("keys", [{"up": 0.0}, {"flops": math.inf}, {"link_spread": -1.0}])
def test_values_out_of_their_range_are_refused(keys: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"Expected `time.{next(iter(keys))}` to be"):
        Links(**({"up": 1.0, "down": 1.0, "flops": 1.0} | keys))
