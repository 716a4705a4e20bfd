"""The checker: runs the tests' own source, from the data set, in a process of ours that can be killed.

The functions of the submission stand in the tests' namespace as proxies. A call sends plain data and gets plain data or
an exception by name, both built afresh here; so whatever the submission does to its own process, its only way to act on
a test is to return a value. The keeper forks a checker for a job and hears of it by lines of JSON:

    ["setup", text]                  the data set's own code fails: nobody could pass
    ["loaded", text or null]         the submission's top level ran, or what it raised
    ["start", i]                     the clock of test i runs
    ["end", i, passed, detail]
    ["unable", i, text]              test i hands over what is no plain data
    ["broken", i, text]              the submission's process is gone or speaks nonsense: a new pair is needed
    ["done"]
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from rewards.isolation import wire
from rewards.isolation.types import matches

DETAIL = 200  # characters
PUZZLE_DIGITS = 100_000  # of a number that a puzzle reads or writes as text
ENDED = "the submission's process ended"


class Broken(BaseException):
    """The submission can be called no more. No `except Exception` of a test catches it."""


class Unable(BaseException):
    """The test cannot pass the boundary. The message says what it wanted to pass."""


class Channel:
    """The submission's two pipes. `failure` and `unable` are remembered: a test that swallows them has not passed."""

    def __init__(self, requests: int, replies: int, *, mutation: bool) -> None:
        self.requests, self.replies, self.mutation = requests, replies, mutation
        self.failure: BaseException | None = None

    def ask(self, frame: bytes) -> list[Any]:
        """One request and its reply. Raises Broken."""
        if self.failure is not None:
            raise self.failure
        try:
            wire.send(self.requests, frame)
            reply = wire.receive(self.replies)
        except wire.BadMessage as error:
            raise self._fail(Broken(f"wrong: the submission's reply is no plain data ({error})")) from None
        except OSError:
            reply = None
        if type(reply) is not list or not reply:
            raise self._fail(Broken(ENDED if reply is None else "wrong: no reply"))
        return reply

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function of the submission: its value, or its exception raised here."""
        try:
            frame = wire.dump(["call", name, wire.encode(list(args)), wire.encode(kwargs), self.mutation])
        except wire.NotPlain as error:
            raise self._fail(Unable(f"a test passes a {error} to {name}, which is no plain data")) from None
        except (wire.TooLarge, RecursionError):  # a wrong answer: arguments may have come out of the submission
            raise wire.SubmissionError(f"the arguments of {name} are too large to pass") from None
        reply = self.ask(frame)
        try:
            value, error = _taken(name, reply)
            if self.mutation and reply[0] == "value" and reply[2] is not None:
                put_in_place(list(args), wire.decode(reply[2]))
        except (wire.BadMessage, IndexError, RecursionError) as error:
            raise self._fail(Broken(f"wrong: the submission's reply is no plain data ({error})")) from None
        if error is not None:
            raise error
        return value

    def _fail(self, failure: BaseException) -> BaseException:
        self.failure = failure
        return failure


def _taken(name: str, reply: list[Any]) -> tuple[Any, Exception | None]:
    """The value of a reply, or the exception that it stands for. Raises BadMessage."""
    if reply[0] == "value":
        return wire.decode(reply[1]), None
    if reply[0] == "raise":
        names = wire.decode(reply[1])
        error = wire.exception(names, wire.decode(reply[2]))
        error.__dict__["of_submission"] = str(names[0]) if names else "an exception"
        return None, error
    if reply[0] in ("odd", "large") and type(reply[1]) is str:
        what = f"a {reply[1]}, which is no plain data" if reply[0] == "odd" else f"too much ({reply[1]})"
        error = wire.SubmissionError(f"{name} returned {what}")
        error.__dict__["odd"] = True
        return None, error
    raise wire.BadMessage("unknown kind")


def put_in_place(old: Any, new: Any) -> None:
    """Make the containers of `old` hold what `new` holds, as a function that changes its arguments would have done."""
    if type(old) is not type(new):
        return
    if type(old) in (list, tuple) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new)):
            if type(before) is type(after) and type(before) in (list, dict, set, tuple):
                put_in_place(before, after)
            elif type(old) is list:
                old[index] = after
    elif type(old) is list:
        old[:] = new
    elif type(old) in (dict, set):
        old.clear()
        old.update(new)


def proxy(channel: Channel, name: str) -> Callable[..., Any]:
    def function(*args: Any, **kwargs: Any) -> Any:
        return channel.call(name, args, kwargs)

    function.__name__ = function.__qualname__ = name
    return function


def run(job: dict[str, Any], first: int, channel: Channel, say: Callable[[list[Any]], None]) -> None:
    """Check the tests from `first` on. Returns after the last, or when the submission can be called no more."""
    space: dict[str, Any] = {"__name__": "checks"}
    try:
        exec(compile(job["setup"], "setup", "exec", dont_inherit=True), space)
    except BaseException as error:  # noqa: BLE001  the data set's code
        say(["setup", f"the code that its tests need raises {_told(error)}"])
        return
    try:
        reply = channel.ask(wire.dump(["load", job["code"], "submission"]))
        failed = (
            None if reply[0] == "loaded" else _told(wire.exception(wire.decode(reply[1]), wire.decode(reply[2])), reply)
        )
    except Broken as error:
        failed = str(error)
    except (wire.TooLarge, wire.BadMessage, IndexError, RecursionError) as error:
        failed = f"cannot be loaded: {error}"
    say(["loaded", failed])
    if failed is not None:
        return
    for name in job["names"]:
        space[name] = proxy(channel, name)
    for index in range(first, len(job["tests"])):
        say(["start", index])
        passed, detail = _test(job, job["tests"][index], space, channel)
        if isinstance(channel.failure, Unable):
            say(["unable", index, str(channel.failure)])
            return
        if channel.failure is not None:
            say(["broken", index, str(channel.failure)])
            return
        say(["end", index, passed, detail])
        if job["stop"] and not passed:
            return


def _test(job: dict[str, Any], test: str, space: dict[str, Any], channel: Channel) -> tuple[bool, str]:
    space = dict(space)  # a test's own names do not reach the next test
    try:
        if job["kind"] == "puzzle":
            return _puzzle(job, test, space, channel)
        exec(compile(test, "test", "exec", dont_inherit=True), space)
    except AssertionError as error:
        return False, "wrong" if "of_submission" not in error.__dict__ else f"raised {_told(error)}"
    except BaseException as error:  # noqa: BLE001  SystemExit of a test is no pass, either
        if "odd" in error.__dict__:
            return False, str(error)[:DETAIL]
        return (
            False,
            f"raised {_told(error)}" if "of_submission" in error.__dict__ else f"the test raised {_told(error)}",
        )
    return True, "passed"


def _puzzle(job: dict[str, Any], test: str, space: dict[str, Any], channel: Channel) -> tuple[bool, str]:
    """`sat(answer, ...)` of the data set on `sol(...)`, which gets the defaults of sat's other parameters.

    Puzzles are older than Python's limit to numbers in text: one holds a number of 8844 digits, another writes out 5 ** 7012. For a reply
    the limit holds, since no number in one has more than 19 digits.
    """
    sys.set_int_max_str_digits(PUZZLE_DIGITS)
    exec(compile(test, "test", "exec", dont_inherit=True), space)
    sat = space["sat"]
    names = sat.__code__.co_varnames[1 : sat.__code__.co_argcount]
    inputs = dict(zip(names, sat.__defaults__ or ()))
    wanted = sat.__annotations__.get(sat.__code__.co_varnames[0])
    sys.set_int_max_str_digits(sys.int_info.default_max_str_digits)
    answer = channel.call(job["names"][0], (), inputs)
    sys.set_int_max_str_digits(PUZZLE_DIGITS)
    if not matches(answer, wanted):
        return False, f"wrong: its type is not {getattr(wanted, '__name__', wanted)}"[:DETAIL]
    return (True, "passed") if sat(answer, **inputs) is True else (False, "wrong")


def _told(error: BaseException, reply: list[Any] | None = None) -> str:
    name = error.__dict__.get("of_submission") or type(error).__name__
    if reply is not None and type(error) is wire.SubmissionError:
        name = str(wire.decode(reply[1])[0])
    return f"{name}: {wire.describe(error)[1]}"[:DETAIL]  # a KeyError of a huge number has no text


def serve(job: dict[str, Any], first: int, requests: int, replies: int, events: int) -> None:
    """The life of a checker process, from the keeper's fork on."""

    def say(event: list[Any]) -> None:
        wire.send(events, json.dumps(event).encode() + b"\n")

    channel = Channel(requests, replies, mutation=job["mutation"])
    run(job, first, channel, say)
    say(["done"])
    os._exit(0)
