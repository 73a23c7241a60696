"""Buffers that are no real numbers have a mean of their own; it is one that can be checked by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from pffdst.core.model import Buffer, Entry, Layout
from pffdst.core.state import BufferMean, changes


def mean(sent: Tensor, *clients: tuple[Tensor | None, int]) -> Tensor:
    dtype = str(sent.dtype).removeprefix("torch.")
    layout = Layout((Entry("w", (2, 2), 0, "maskable"),), (Buffer("b", tuple(sent.shape), dtype),))
    running = BufferMean(layout, [sent])
    for buffer, weight in clients:
        running.add([buffer], weight)
    [found] = running.result()
    assert found.dtype == sent.dtype
    return found


def test_integers_are_the_weighted_mean_rounded() -> None:
    sent = torch.tensor([10, 10, 10])
    one, two = torch.tensor([11, 14, 10]), torch.tensor([12, 10, 10])
    assert mean(sent, (one, 1), (two, 3)).tolist() == [12, 11, 10]
    assert mean(sent, (one, 1), (None, 1)).tolist() == [10, 12, 10]  # 0.5 to the even
    assert mean(torch.tensor([250], dtype=torch.uint8), (torch.tensor([0], dtype=torch.uint8), 1)).tolist() == [0]
    large = torch.tensor([2**62 + 1])
    assert torch.equal(mean(large, (large + 1, 1), (large + 1, 7)), large + 1)  # no double in between


def test_booleans_are_what_the_greater_weight_says() -> None:
    sent = torch.tensor([True, True, False, False])
    one = torch.tensor([False, True, True, False])
    assert mean(sent, (one, 3), (None, 2)).tolist() == one.tolist()
    assert mean(sent, (one, 2), (None, 2)).tolist() == sent.tolist()  # a tie
    assert mean(sent, (one, 1), (sent, 2)).tolist() == sent.tolist()


def test_complex_numbers_are_the_weighted_mean() -> None:
    sent = torch.tensor([1 + 1j, 2j], dtype=torch.complex64)
    assert torch.allclose(mean(sent, (sent * 5, 1), (None, 3)), 2 * sent)


def test_what_nobody_changed_is_the_very_same() -> None:
    sent = torch.arange(4)
    assert mean(sent, (None, 1), (None, 2)) is sent
    assert mean(sent) is sent
    assert changes([sent, sent], [sent.clone(), sent + 1])[0] is None
