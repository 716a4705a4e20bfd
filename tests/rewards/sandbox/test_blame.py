"""Where a service breaks off: whether the submission is scored for it, or the sample is dropped."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from rewards.isolation import service
from rewards.isolation.service import BrokeOff, Ran, ServiceError, answerable

WELL = Ran("well\n", 0)


class Scripted:
    """A service that answers the submission's programs, and ours, in turn as told; an exception is raised."""

    def __init__(self, theirs: list[Ran | Exception], ours: list[Ran | Exception]) -> None:
        self.theirs, self.ours, self.said = theirs, ours, ""

    def run(self, program: str, stdin: str, seconds: float) -> Ran:
        self.said += "t" if program == "theirs" else "o"
        answer = (self.theirs if program == "theirs" else self.ours).pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def renew(self) -> None:
        self.said += "n"

    def end(self) -> None: ...


def test_what_breaks_its_sandbox_twice_is_scored_and_asked_no_more() -> None:
    client = Scripted([BrokeOff("gone")] * 2, [WELL] * 2)
    run = answerable(client)
    ran = run("theirs", "", 1.0)
    assert ran.output == ""
    assert ran.status != 0
    assert "broke twice (gone)" in ran.problem
    assert run("theirs", "", 1.0) == ran
    assert client.said == "tnotno"


def test_what_runs_the_second_time_was_the_services_fault() -> None:
    client = Scripted([BrokeOff("gone"), Ran("4", 0)], [WELL])
    assert answerable(client)("theirs", "", 1.0) == Ran("4", 0)
    assert client.said == "tnot"


@pytest.mark.parametrize(
    "ours", [[BrokeOff("still gone")], [Ran("", 0)], [WELL, BrokeOff("gone again")], [Ran("well", 1)]]
)
def test_a_service_that_runs_no_honest_program_either_is_infrastructure(ours: list[Ran | Exception]) -> None:
    client = Scripted([BrokeOff("gone")] * 2, ours)
    with pytest.raises(ServiceError, match="gone"):
        answerable(client)("theirs", "", 1.0)


def test_a_refusal_is_nobodys_program() -> None:
    client = Scripted([ServiceError("busy")], [])
    with pytest.raises(ServiceError, match="busy"):
        answerable(client)("theirs", "", 1.0)
    assert client.said == "t"


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server on loopback that takes one connection, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                try:
                    answer(connection)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join()


def test_an_answer_that_does_not_end_is_left() -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        until = time.monotonic() + 10.0
        while time.monotonic() < until:
            connection.sendall(b"x")
            time.sleep(0.02)

    with answering(drip) as url, pytest.raises(BrokeOff, match="does not end"):
        service._asked(url, {}, {}, 0.2)


def test_an_answer_that_is_too_long_is_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MAX_ANSWER", 100_000)

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5_000_000)

    with answering(flood) as url:
        ran = service._Fusion({"url": url}, "").run("print('x' * 5_000_000)", "", 1.0)
    assert ran.problem == "wrote too much"


@pytest.mark.parametrize(
    "answer", [{"stdout": 3}, {"stdout": "", "return_code": "0"}, {"stdout": "", "return_code": True}]
)
def test_parts_of_another_type_cannot_be_read(answer: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"status": "Finished", "return_code": 0, **answer}
    monkeypatch.setattr(service, "_read", lambda *_: {"status": "Success", "run_result": result})
    monkeypatch.setattr(service, "_asked", lambda *_: "")
    with pytest.raises(BrokeOff, match="cannot be read"):
        service._Fusion({"url": ""}, "").run("", "", 1.0)
