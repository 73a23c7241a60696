"""What the server takes its clients to hold, against sets kept by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pffdst.server.holdings import Holdings

CLIENTS = 3
events = st.lists(
    st.one_of(
        st.sampled_from(["mask", "freeze"]), st.tuples(st.sampled_from(["sent", "lost"]), st.integers(0, CLIENTS - 1))
    )
)


@given(events)
def test_a_client_lacks_what_is_new_since_it_was_last_sent_to(happened: list[str | tuple[str, int]]) -> None:
    holdings = Holdings(CLIENTS)
    mask, frozen, any_frozen = set[int](), set(range(CLIENTS)), False
    for event in happened:
        if event == "mask":
            holdings.new_mask()
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
        assert [holdings.lacks(k) for k in range(CLIENTS)] == [(k not in mask, k not in frozen) for k in range(CLIENTS)]


def test_holdings_go_through_a_checkpoint_as_a_copy() -> None:
    kept, again = Holdings(CLIENTS), Holdings(CLIENTS)
    kept.new_frozen()
    kept.sent(1)
    state = kept.state_dict()
    kept.sent(0)
    again.load_state_dict(state)
    assert [again.lacks(k) for k in range(CLIENTS)] == [(True, True), (False, False), (True, True)]
    again.sent(2)
    assert state["mask"][2] == 0
