"""Plain data passes as it is; nothing else can be built from what arrives."""

import json
import math
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.isolation import wire

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=1 << 70, max_value=1 << 90),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
)
KEYS = st.recursive(
    SCALARS, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=2)), max_leaves=4
)
PLAIN = st.recursive(
    st.one_of(SCALARS, st.sets(KEYS, max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)
FORMS: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4), st.sampled_from("ibcrdltszeqi")
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=2), inner, max_size=2)),
    max_leaves=15,
)


def sent(value: object) -> object:
    return wire.decode(json.loads(wire.dump(wire.encode(value))[4:]))


def exact(value: Any) -> Any:
    """A form in which values of different types differ, and -0.0 differs from 0.0."""
    if type(value) in (list, tuple):
        return type(value), [exact(item) for item in value]
    if type(value) in (set, frozenset):
        return type(value), value
    if type(value) is dict:
        return [(exact(key), exact(item)) for key, item in value.items()]
    return type(value), repr(value) if type(value) in (float, complex) else value


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_plain_data_arrives_as_it_was(value: Any) -> None:
    assert exact(sent(value)) == exact(value)


@settings(max_examples=300, deadline=None)
@given(FORMS)
def test_whatever_arrives_is_plain_or_refused(form: Any) -> None:
    try:
        value = wire.decode(form)
        assert wire.decode(wire.encode(value)) is not NotImplemented  # it can be sent back: all of it is plain
    except wire.BadMessage:
        pass


def test_special_numbers() -> None:
    value = sent([math.nan, math.inf, -math.inf, -0.0, 10**5000, -(10**5000), True, complex("nan")])
    assert isinstance(value, list)
    assert math.isnan(value[0])
    assert value[1:3] == [math.inf, -math.inf]
    assert math.copysign(1, value[3]) == -1
    assert value[4:6] == [10**5000, -(10**5000)]
    assert value[6] is True


@pytest.mark.parametrize(
    "value",
    [lambda: 0, object(), int, iter([]), (n for n in ()), {1}.__iter__, Ellipsis, memoryview(b""), [{"a": len}]],
)
def test_other_types_are_refused_by_name(value: object) -> None:
    with pytest.raises(wire.NotPlain):
        wire.encode(value)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_depth_and_size_have_limits() -> None:
    assert sent(nested(wire.MAX_DEPTH - 1)) == nested(wire.MAX_DEPTH - 1)
    with pytest.raises(wire.TooLarge):
        wire.encode(nested(wire.MAX_DEPTH + 2))
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(wire.TooLarge):
        wire.encode(loop)
    with pytest.raises(wire.TooLarge):
        wire.dump("x" * (wire.MAX_FRAME + 1))


def values(form: Any) -> int:
    """How many values a JSON form holds, itself included; keys count."""
    if isinstance(form, dict):
        return 1 + sum(1 + values(item) for item in form.values())
    return 1 + sum(map(values, form)) if isinstance(form, list) else 1


@settings(max_examples=200, deadline=None)
@given(FORMS, st.lists(st.text(st.sampled_from('",:[{\\x'), max_size=6), max_size=4), st.integers(0, 12))
def test_values_are_counted_without_building_them(form: Any, texts: list[str], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "MAX_NODES", most)
        data = json.dumps([form, *texts], separators=(",", ":")).encode()
        found = values(json.loads(data))
        if wire.crowded(data):
            assert 2 * found > most  # each value has at most a mark before it and one that opens it
        else:
            assert found <= most + 1


def test_a_message_holds_a_bounded_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_NODES", 10_000)  # less to build, and the same code
    many = b"[" + b"[]," * (wire.MAX_NODES // 2) + b"[]]"
    for data in (many, b'["' + b'","' * wire.MAX_NODES + b'"]', b'["\\\\",' + b"0," * wire.MAX_NODES + b"0]"):
        assert wire.crowded(data)
    with pytest.raises(wire.BadMessage, match="values"):
        exchange(len(many).to_bytes(4, "little") + many)
    with pytest.raises(wire.TooLarge, match="values"):
        wire.dump(wire.encode([[]] * (wire.MAX_NODES // 2)))
    with pytest.raises(wire.BadMessage, match="values"):
        wire.decode(["l", *[0] * wire.MAX_NODES])
    with pytest.raises(wire.BadMessage, match="values"):
        wire.decode(["l", ["l", *[0] * (wire.MAX_NODES // 2)], ["l", *[0] * (wire.MAX_NODES // 2)]])


def test_marks_in_a_text_are_no_values() -> None:
    text = "[,]{:}" * 800_000 + '\\"' * 400_000
    assert sent([text, 1]) == [text, 1]


def exchange(data: bytes) -> object:
    read, write = os.pipe()
    try:
        os.write(write, data)
        os.close(write)
        return wire.receive(read)
    finally:
        os.close(read)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff[",
        b"\x02\x00\x00\x00[[",
        b"\x04\x00\x00\x00nul!",
        b"\x02\x00\x00\x00\xff\xfe",
        (40000).to_bytes(4, "little") + b"[" * 20000 + b"]" * 20000,
        (9000).to_bytes(4, "little") + b"9" * 9000,
    ],
)
def test_nonsense_on_the_channel_is_refused(data: bytes) -> None:
    with pytest.raises(wire.BadMessage):
        exchange(data)


def test_the_end_of_the_channel_is_no_message() -> None:
    assert exchange(b"") is None
    assert exchange(b"\x05\x00") is None
    assert exchange(b"\x05\x00\x00\x00[1") is None
    assert exchange(wire.dump(["value", 1])) == ["value", 1]


@pytest.mark.parametrize(
    ("names", "cls"),
    [
        (["ValueError", "Exception"], ValueError),
        (["JSONDecodeError", "ValueError", "Exception"], ValueError),
        (["KeyError"], KeyError),
        (["UnicodeDecodeError", "UnicodeError", "ValueError"], ValueError),
        (["SystemExit", "BaseException"], wire.SubmissionError),
        (["KeyboardInterrupt"], wire.SubmissionError),
        (["GeneratorExit"], wire.SubmissionError),
        (["BaseException"], wire.SubmissionError),
        (["Exception"], Exception),
        (["MyError", "Exception"], wire.SubmissionError),
        (["__import__"], wire.SubmissionError),
        ([], wire.SubmissionError),
    ],
)
def test_exceptions_are_built_by_name_and_never_end_a_process(names: list[str], cls: type) -> None:
    error = wire.exception(names, "text")
    assert type(error) is cls
    assert isinstance(error, Exception)


def test_hostile_exceptions_have_a_text() -> None:
    def raising(error: BaseException) -> Callable[[object], str]:
        def text(_: object) -> str:
            raise error

        return text

    for error in (SystemExit(), KeyboardInterrupt(), ValueError()):
        hostile = type("Hostile", (Exception,), {"__str__": raising(error)})()
        assert wire.describe(hostile)[1] == f"its text raised {type(error).__name__}"
    assert len(wire.describe(ValueError("x" * 10**6))[1]) == wire.MAX_TEXT


def test_the_order_of_a_set_does_not_matter_and_dicts_keep_theirs() -> None:
    keys = list(range(100))
    random.Random(1).shuffle(keys)
    value = sent({key: set(keys) for key in keys})
    assert isinstance(value, dict)
    assert list(value) == keys
