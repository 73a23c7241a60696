"""What the server takes its clients to hold, against sets kept by hand."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from pffdst.core.model import Entry, Layout
from pffdst.core.positions import Positions
from pffdst.server.holdings import Holdings

CLIENTS = 3
LAYOUT = Layout((Entry("a", (4, 5), 0, "maskable"),))
MASK = Positions(LAYOUT, bits=torch.arange(20) % 3 == 0)
events = st.lists(
    st.one_of(
        st.sampled_from(["mask", "freeze"]), st.tuples(st.sampled_from(["sent", "lost"]), st.integers(0, CLIENTS - 1))
    )
)


@given(events)
def test_a_client_lacks_what_is_new_since_it_was_last_sent_to(happened: list[str | tuple[str, int]]) -> None:
    holdings = Holdings(CLIENTS)
    holdings.new_mask(MASK)
    mask, frozen, any_frozen = set[int](), set(range(CLIENTS)), False
    for event in happened:
        if event == "mask":
            holdings.new_mask(MASK)
            mask.clear()
        elif event == "freeze":
            holdings.new_frozen()
            frozen.clear()
            any_frozen = True
        elif event[0] == "sent":
            holdings.sent(int(event[1]))
            mask.add(int(event[1]))
            frozen.add(int(event[1]))
        else:
            holdings.forget(int(event[1]))
            mask.discard(int(event[1]))
            if any_frozen:
                frozen.discard(int(event[1]))
        assert [holdings.lacks(k)[:2] for k in range(CLIENTS)] == [
            (k not in mask, k not in frozen) for k in range(CLIENTS)
        ]
        assert holdings.news == (not mask, not frozen)
        again = Holdings(CLIENTS)
        again.load_state_dict(holdings.state_dict())
        assert again.news == holdings.news


def test_holdings_go_through_a_checkpoint_as_a_copy() -> None:
    kept, again = Holdings(CLIENTS), Holdings(CLIENTS)
    kept.new_mask(MASK)
    kept.new_frozen()
    kept.sent(1)
    state = kept.state_dict()
    kept.sent(0)
    again.load_state_dict(state)
    assert [again.lacks(k)[:2] for k in range(CLIENTS)] == [(True, True), (False, False), (True, True)]
    again.sent(2)
    assert 2 not in state["mask"][1]


def test_a_mask_is_kept_as_long_as_somebody_holds_it() -> None:
    holdings, masks = Holdings(2), [Positions(LAYOUT, bits=torch.rand(20) < 0.5) for _ in range(5)]
    assert holdings.mask(0, LAYOUT) is None
    assert holdings.empty
    for version, mask in enumerate(masks, start=1):
        holdings.new_mask(mask)
        if version in (2, 3):
            holdings.sent(version - 2)
    for client, version in ((0, 2), (1, 3)):
        assert holdings.lacks(client).held == version
        assert holdings.mask(version, LAYOUT) == masks[version - 1]
    assert set(holdings.state_dict()["masks"]) == {2, 3, 5}


def test_the_moves_to_the_current_mask_are_known_from_every_version_since_a_draw() -> None:
    holdings = Holdings(1)
    assert holdings.moves(0) is None
    holdings.new_mask(MASK)
    for move in (b"a", b"b"):
        holdings.new_mask(MASK, move)
    assert [holdings.moves(v) for v in range(3)] == [None, [b"a", b"b"], [b"b"]]
    holdings.new_mask(MASK, b"c", afresh=True)
    holdings.new_mask(MASK, b"d")
    assert [holdings.moves(v) for v in range(5)] == [[b"c", b"d"]] * 4 + [[b"d"]]
    again = Holdings(1)
    again.load_state_dict(holdings.state_dict())
    assert [again.moves(v) for v in range(5)] == [holdings.moves(v) for v in range(5)]
    holdings.new_mask(MASK)
    assert [holdings.moves(v) for v in range(6)] == [None] * 6
    assert again.moves(4) == [b"d"]


def test_moves_that_are_never_sent_are_not_kept() -> None:
    """Of a run of any length no more are held than a bitmap has bytes; those that are held lead to the mask."""
    layout = Layout((Entry("a", (40, 20), 0, "maskable"),))  # a bitmap of 100 bytes
    mask, holdings = Positions(layout, bits=torch.arange(800) % 3 == 0), Holdings(CLIENTS)
    moves = [bytes([n]) * 30 for n in range(20)]
    holdings.new_mask(mask, moves[0], afresh=True)
    assert holdings.moves(0) == moves[:1]
    for n, move in enumerate(moves[1:], start=1):
        holdings.sent(n % CLIENTS)
        holdings.new_mask(mask, move)
        assert holdings.moves(0) == (moves[: n + 1] if n < 3 else None)
        for back in range(1, n + 1):
            known = holdings.moves(n + 1 - back)
            assert known == (moves[n + 1 - back : n + 1] if back <= 3 else None)
    assert sum(map(len, holdings.state_dict()["moves"])) < 100
