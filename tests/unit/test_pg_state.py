"""What moves of a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.services.pg import protocol
from testbed.services.pg.state import State

words = st.text(st.characters(max_codepoint=255), max_size=10)
blobs = st.binary(max_size=50)
texts = st.text(st.characters(min_codepoint=1, max_codepoint=255), max_size=10)
states = st.builds(
    State,
    startup=blobs,
    key=st.tuples(st.integers(0, 1 << 31), st.integers(0, 1 << 31)),
    status=st.sampled_from("ITE"),
    streaming=st.sampled_from(["", "ready", "sync"]),
    doubt=words,
    unit=blobs,
    answer=blobs,
    unsafe=st.booleans(),
    bound=st.lists(words, max_size=3),
    bound_then=st.lists(words, max_size=3),
    settings=st.dictionaries(words, words, max_size=3),
    custom=st.lists(words, max_size=3),
    prepared=st.dictionaries(texts, texts, max_size=3).map(
        lambda statements: {name: protocol.parse(name, sql) for name, sql in statements.items()}
    ),
    prepared_by_sql=st.dictionaries(words, words, max_size=3),
    reported=st.dictionaries(words, words, max_size=3),
    pending=blobs,
    input=blobs,
)


@given(states)
def test_there_and_back(state: State) -> None:
    assert State.load(state.dump()) == state


@given(states, st.data())
def test_cut_short(state: State, data: st.DataObject) -> None:
    whole = state.dump()
    with pytest.raises(ValueError):
        State.load(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("name", ["streaming", "doubt", "unsafe", "bound"])
def test_held(name: str) -> None:
    assert not State().hold
    assert State(**{name: "x"}).hold  # type: ignore[arg-type]
    assert State(status="T").hold and State(status="E").hold
