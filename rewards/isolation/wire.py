"""Plain data between the checker and a submission: a small tagged form of JSON, with hard limits, and frames to carry it.

What passes: None, bool, int of any size, float, complex, str, bytes, list, tuple, set, frozenset, dict, range, and
exceptions by the name of their class and their text. Nothing else can be built by `decode`, whatever the other side
sends: no class, no function, no subclass with an `__eq__` of its own. This file is also part of what runs inside the
sandbox, so it imports the standard library only and nothing of this project.
"""

import base64
import binascii
import builtins
import json
import os
import struct

MAX_DEPTH = 200  # of nested containers
MAX_NODES = 4_000_000  # values in one message, as JSON has them: a list's tag and the parts of a number count, too
MAX_FRAME = 32 << 20  # bytes of one message
MAX_TEXT = 10_000  # characters of an exception's text
_BIG = 1 << 63  # ints from here on travel in hexadecimal: that has no limit of digits and takes linear time


class NotPlain(Exception):
    """A value that cannot pass; the message names its type."""


class TooLarge(Exception):
    """A value that is too deep or too large to pass."""


class BadMessage(Exception):
    """The other side sent something that is no message of this protocol."""


def encode(value, depth=0, budget=None):
    """The JSON-ready form of plain data. Subclasses of plain types pass as their base, numpy's scalars as numbers.

    Raises NotPlain for other types, TooLarge beyond MAX_DEPTH levels or MAX_NODES values.
    """
    budget = [MAX_NODES] if budget is None else budget
    budget[0] -= 1
    if depth > MAX_DEPTH or budget[0] < 0:
        raise TooLarge(f"more than {MAX_DEPTH} levels or {MAX_NODES} values")
    if value is None or value is True or value is False:
        return value
    kind = _plain_type(type(value))
    if kind is int:
        value = int.__index__(value)
        return value if -_BIG < value < _BIG else ["i", int.__format__(value, "x")]
    if kind is float:
        return float.__float__(value)
    if kind is str:
        return str.__str__(value)
    if kind is bytes:
        return ["b", base64.b64encode(value).decode()]
    if kind is complex:
        return ["c", value.real, value.imag]
    if kind is range:
        return ["r", *(encode(part) for part in (value.start, value.stop, value.step))]
    if kind is dict:
        return ["d", *(encode(part, depth + 1, budget) for pair in dict.items(value) for part in pair)]
    if kind is not None and kind in _TAGS:
        return [_TAGS[kind], *(encode(item, depth + 1, budget) for item in kind(value))]  # pyright: ignore
    if isinstance(value, BaseException):
        return ["e", *describe(value)]
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return encode(value.item(), depth + 1, budget)
    raise NotPlain(type(value).__name__)


_TAGS = {list: "l", tuple: "t", set: "s", frozenset: "z"}
_CONTAINERS = {tag: kind for kind, tag in _TAGS.items()}
_PLAIN = (int, float, str, bytes, complex, range, dict, *_TAGS)


def _plain_type(cls):
    """The plain type that `cls` is or derives from, or None."""
    if cls in _PLAIN:
        return cls
    return next((base for base in cls.__mro__ if base in _PLAIN), None)


def describe(error):
    """An exception as (names of its class and bases, text). Its own `__str__` may fail or be huge."""
    names = [cls.__name__ for cls in type(error).__mro__ if issubclass(cls, BaseException)]
    try:
        text = str(error)[:MAX_TEXT]
    except BaseException as hostile:  # noqa: BLE001  the submission's own `__str__`
        text = f"its text raised {type(hostile).__name__}"
    return [["l", *names[:20]], str.__str__(text)]


def decode(form, depth=0, budget=None):
    """The value of a JSON form. Raises BadMessage for anything that `encode` does not write."""
    if form is None or type(form) in (bool, int, float, str):
        return form
    if type(form) is not list or not form or type(form[0]) is not str or depth > MAX_DEPTH + 5:
        raise BadMessage("no plain value")
    budget = [MAX_NODES] if budget is None else budget
    budget[0] -= len(form)
    if budget[0] < 0:
        raise BadMessage(f"more than {MAX_NODES} values")
    tag, parts = form[0], form[1:]
    try:
        if tag in _CONTAINERS:
            return _CONTAINERS[tag]([decode(part, depth + 1, budget) for part in parts])
        if tag == "d" and len(parts) % 2 == 0:
            values = [decode(part, depth + 1, budget) for part in parts]
            return dict(zip(values[::2], values[1::2]))
        if tag == "e" and len(parts) == 2:
            return exception(decode(parts[0], depth + 1, budget), decode(parts[1], depth + 1, budget))
        return _scalar(tag, parts)
    except (TypeError, ValueError, OverflowError) as error:  # an unhashable key, letters that are no digits
        raise BadMessage(f"no plain value: {error}") from None


def _scalar(tag, parts):
    if tag == "i" and len(parts) == 1 and type(parts[0]) is str:
        return int(parts[0], 16)
    if tag == "b" and len(parts) == 1 and type(parts[0]) is str:
        try:
            return base64.b64decode(parts[0], validate=True)
        except binascii.Error as error:
            raise BadMessage("no bytes") from error
    if tag == "c" and len(parts) == 2 and all(type(part) is float for part in parts):
        return complex(*parts)
    if tag == "r" and len(parts) == 3:
        return range(*(decode(part, MAX_DEPTH) for part in parts))
    raise BadMessage("no plain value")


_NOT_REBUILT = (Exception, UnicodeError, StopIteration, StopAsyncIteration)


class SubmissionError(Exception):
    """Stands for an exception whose class only the submission knows."""


def exception(names, text):
    """An exception of the first class among `names` that is Python's own; never one that would end this process, or that
    Python takes for the end of a loop: with that, `all(map(f, cases))` would be true."""
    if type(names) is not list or not all(type(name) is str for name in names) or type(text) is not str:
        raise BadMessage("no exception")
    for name in names:
        cls = getattr(builtins, name, None)
        if isinstance(cls, type) and issubclass(cls, Exception) and cls not in _NOT_REBUILT:
            try:
                return cls(text)
            except TypeError:  # UnicodeDecodeError and the like want more than a text
                continue
    return Exception(text) if names[:1] == ["Exception"] else SubmissionError(text)


def dump(message):
    """One frame: four bytes of length, then JSON in ASCII. Raises TooLarge."""
    data = json.dumps(message, separators=(",", ":")).encode("ascii")
    if len(data) > MAX_FRAME:
        raise TooLarge(f"more than {MAX_FRAME} bytes")
    if crowded(data):
        raise TooLarge(f"more than {MAX_NODES} values")
    return struct.pack("<I", len(data)) + data


def crowded(data):
    """Whether a JSON text holds more than MAX_NODES values, told without building them: parsed, three bytes become ninety.

    Each value follows a comma, a colon or a bracket. Where those in texts alone may be what makes them many, texts are left
    out, a piece at a time.
    """
    if _marks(data) <= MAX_NODES:
        return False
    data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    found, inside = 0, 0
    for start in range(0, len(data), 1 << 20):
        parts = data[start : start + (1 << 20)].split(b'"')
        found += _marks(b"".join(parts[inside::2]))
        if found > MAX_NODES:
            return True
        inside ^= (len(parts) - 1) % 2
    return False


def _marks(data):
    return sum(map(data.count, (b",", b":", b"[", b"{")))


def send(fd, frame):
    """Write a whole frame. Raises OSError where nobody reads."""
    view = memoryview(frame)
    while view:
        view = view[os.write(fd, view[: 1 << 16]) :]


def receive(fd):
    """The next message, None at the end of the stream. Raises BadMessage, also beyond MAX_FRAME bytes or MAX_NODES values."""
    head = _exactly(fd, 4)
    if head is None:
        return None
    (size,) = struct.unpack("<I", head)
    if size > MAX_FRAME:
        raise BadMessage("a message that is too large")
    data = _exactly(fd, size)
    if data is None:
        return None
    if crowded(data):
        raise BadMessage(f"more than {MAX_NODES} values")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadMessage("no JSON, or nested too deeply") from error


def _exactly(fd, size):
    data = bytearray()
    while len(data) < size:
        part = os.read(fd, min(size - len(data), 1 << 16))
        if not part:
            return None
        data += part
    return bytes(data)
