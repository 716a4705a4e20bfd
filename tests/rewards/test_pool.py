"""Worker processes: order, hangs, crashes, restarts, interruption, and that none is left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rewards.contract.pool import Pool, PoolError, Reply

# Does what each request says; `pid` answers with the process id.
WORKER = """\
import os, signal, sys, time
print("a greeting of some library", flush=True)
print("ready", flush=True)
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    print("begin", flush=True)
    if word == "hang":
        time.sleep(600)
    if word == "exit":
        sys.exit(int(rest))
    if word == "kill":
        os.kill(os.getpid(), int(rest))
    if word == "sleep":
        time.sleep(float(rest))
    if word == "halves":  # a reply in two pieces
        sys.stdout.write("= hal"); sys.stdout.flush(); time.sleep(0.1); print("ves", flush=True)
        continue
    print("=", os.getpid() if word == "pid" else line.strip(), flush=True)
    if word == "last":
        sys.exit(0)
"""


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    (tmp_path / "worker.py").write_text(WORKER)
    pool = Pool([sys.executable, str(tmp_path / "worker.py")], 2)
    yield pool
    pool.close()
    assert not pool._workers


def said(replies: list[Reply]) -> list[str]:
    return [reply.lines[-1] for reply in replies]


def test_replies_come_in_order_and_workers_stay_warm(pool: Pool) -> None:
    requests = ["sleep 0.2", "a", "b", "halves", "é ∑"]
    assert said(pool.run(requests, 10)) == [f"= {request}" for request in requests]
    first = set(said(pool.run(["pid"] * 8, 10)))
    assert 1 <= len(first) <= 2
    assert set(said(pool.run(["pid"] * 8, 10))) <= first
    assert pool.run([], 10) == []


def test_no_more_workers_than_requests(pool: Pool) -> None:
    pool.run(["a"], 10)
    assert len(pool._workers) == 1


def test_a_hanging_worker_costs_its_own_request_only(pool: Pool) -> None:
    before = set(said(pool.run(["pid", "sleep 0.1", "pid"], 10)))
    started = time.perf_counter()
    replies = pool.run(["hang", "a", "hang", "b"], 0.5)
    assert time.perf_counter() - started < 15
    assert [reply.overran for reply in replies] == [True, False, True, False]
    assert replies[0].lines == ("begin",)
    assert replies[0].code == -signal.SIGKILL
    assert said([replies[1], replies[3]]) == ["= a", "= b"]
    assert said(pool.run(["pid"], 10))[0] not in before


@pytest.mark.parametrize(("request_", "code"), [("exit 0", 0), ("exit 3", 3), ("kill 9", -9), ("kill 11", -11)])
def test_a_dying_worker_is_told_from_a_hanging_one(pool: Pool, request_: str, code: int) -> None:
    replies = pool.run([request_, "a"], 10)
    assert replies == [Reply(("begin",), code), Reply(("begin", "= a"))]


def test_workers_that_died_between_two_calls_are_replaced(pool: Pool) -> None:
    pool.run(["last", "last"], 10)
    time.sleep(0.3)
    assert said(pool.run(["a", "b", "c"], 10)) == ["= a", "= b", "= c"]


@pytest.mark.parametrize(
    ("code", "said"),
    [("print('! no such library')", "no such library"), ("import sys; sys.exit(4)", "status 4 before it was ready")],
)
def test_workers_that_do_not_start(code: str, said: str) -> None:
    pool = Pool([sys.executable, "-c", code], 2)
    with pytest.raises(PoolError, match=said):
        pool.run(["a", "b"], 5)
    assert not pool._workers
    with pytest.raises(PoolError, match="cannot be started"):
        Pool(["/no/such/program"], 1).run(["a"], 5)


def test_a_worker_that_keeps_silent_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.contract.pool.START_SECONDS", 0.3)
    with pytest.raises(PoolError, match="said nothing"):
        Pool([sys.executable, "-c", "import time; time.sleep(60)"], 1).run(["a"], 5)


def test_workers_retire(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.contract.pool.REQUESTS_PER_WORKER", 3)
    pids = said(pool.run(["pid"] * 12, 10))
    assert len(set(pids)) >= 4


def test_threads_take_turns(pool: Pool) -> None:
    results: dict[int, list[str]] = {}

    def call(number: int) -> None:
        results[number] = said(pool.run([f"{number}-{i}" for i in range(5)], 10))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == {number: [f"= {number}-{i}" for i in range(5)] for number in range(4)}


def test_workers_are_children_of_a_thread_that_stays(pool: Pool) -> None:
    """Linux tells a worker of its parent's death when the thread that started it ends."""
    thread = threading.Thread(target=pool.run, args=(["a"], 10))
    thread.start()
    thread.join(20)
    assert pool._starter is not None
    assert pool._starter.is_alive()
    assert pool._starter.daemon


def test_an_interrupted_call_leaves_no_stale_reply(pool: Pool) -> None:
    pool.run(["a", "b"], 10)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        pool.run(["sleep 1", "sleep 1"], 10)
    assert not pool._workers
    assert said(pool.run(["c", "d"], 10)) == ["= c", "= d"]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "raise RuntimeError", "os.kill(os.getpid(), 9)"])
def test_nothing_outlives_the_process(tmp_path: Path, ending: str) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    program = f"""
        import os, sys
        from rewards.contract.pool import Pool
        pool = Pool([sys.executable, {str(tmp_path / "worker.py")!r}], 2)
        print(*(reply.lines[-1].split()[1] for reply in pool.run(["pid", "sleep 0.1", "pid"], 10)), flush=True)
        {ending}
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    pids = [int(word) for word in done.stdout.split() if word.isdecimal() and len(word) > 1]
    assert pids, done.stderr
    deadline = time.monotonic() + 10
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pids)
