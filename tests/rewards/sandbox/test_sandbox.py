"""Reports, gradability, clocks and limits of `rewards.sandbox`."""

import os
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from rewards import sandbox as room
from rewards.isolation import levels, stdio, types, watch
from rewards.isolation.interpreter import Interpreter
from rewards.isolation.watch import Clock, Usage
from rewards.sandbox import Job, Limits, Report, Sandbox, SandboxError, StdioTest


@pytest.fixture
def weak(sandbox_at: Callable[[str], Sandbox]) -> Sandbox:
    """Where the level does not matter, the one that every machine has."""
    return sandbox_at("weak")


def check(sandbox: Sandbox, code: str, *tests: str, **more: object) -> Report:
    (report,) = sandbox.check([replace(Job("job", "function", code, tests, ("f",)), **more)])  # type: ignore[arg-type]
    return report


def test_one_slow_test_does_not_void_the_rest(sandbox: Sandbox) -> None:
    report = check(
        sandbox,
        "import time\ndef f(n):\n    time.sleep(n)\n    return n",
        *(f"assert f({n}) == {n}" for n in (0, 9, 0)),
    )
    assert report.passed == (True, False, True)
    assert report.details == ("passed", "timed out after 1 s", "passed")
    assert 1.0 <= report.seconds < 20


def test_a_process_that_ends_costs_its_own_test_only(sandbox: Sandbox) -> None:
    code = "import os, signal\ndef f(n):\n    if n == 1: os._exit(5)\n    if n == 2: os.kill(os.getpid(), signal.SIGKILL)\n    return n"
    report = check(sandbox, code, *(f"assert f({n}) == {n}" for n in (0, 1, 2, 3)))
    assert report.passed == (True, False, False, True)
    assert "exit status 5" in report.details[1]
    assert "killed" in report.details[2]


def test_memory_and_files_are_limited(sandbox: Sandbox) -> None:
    code = (
        "def f(n):\n    if n: return len(bytearray(n))\n    with open('x', 'wb') as file: file.write(b'x' * (8 << 20))"
    )
    report = check(sandbox, code, "f(400 << 20)", "f(0)", "assert f(1) == 1")
    assert report.passed == (False, False, True)
    assert "MemoryError" in report.details[0]
    assert report.details[1] != "passed"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("def f(:", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise ValueError('early')", "ValueError: early"),
        ("def f(n): return n\n\0", "SyntaxError"),
        ("raise SystemExit", "SystemExit"),
    ],
)
def test_what_does_not_load_fails_as_a_whole(weak: Sandbox, code: str, error: str) -> None:
    report = check(weak, code, "assert f(1) == 1", "assert f(2) == 2")
    assert report.error is not None
    assert error in report.error
    assert report.passed == (False, False)
    assert report.details == (report.error, report.error)


def test_details_say_what_happened(weak: Sandbox) -> None:
    code = "def f(n):\n    return [1, 2][n]"
    report = check(
        weak, code, "assert f(0) == 2", "assert f(5) == 1", "assert g(0)", "assert len(f(0)) == 1", names=("f", "g")
    )
    assert report.details[0] == "wrong"
    assert report.details[1] == "raised IndexError: list index out of range"
    assert report.details[2] == "raised NameError: name 'g' is not defined"
    assert report.details[3].startswith("the test raised TypeError")


def test_a_test_that_swallows_everything_has_not_passed_a_dead_submission(weak: Sandbox) -> None:
    report = check(weak, "import os\ndef f(n):\n    os._exit(0)", "try:\n    f(1)\nexcept BaseException:\n    pass")
    assert report.passed == (False,)


def test_tests_do_not_see_each_others_names_but_share_the_setup(weak: Sandbox) -> None:
    report = check(
        weak,
        "def f(n):\n    return n",
        "x = f(1)",
        "assert 'x' not in globals()",
        "assert shared == [f(1)]",
        setup="shared = [1]",
    )
    assert report.passed == (True, True, True)


def test_stop_leaves_out_the_rest(weak: Sandbox) -> None:
    report = check(
        weak, "def f(n):\n    return 0", "assert f(0) == 0", "assert f(1) == 1", "assert f(0) == 0", stop=True
    )
    assert report.details == ("passed", "wrong", "not run")
    (report,) = weak.check([Job("s", "stdio", "print(0)", (StdioTest("", "1"), StdioTest("", "0")), stop=True)])
    assert report.details == ("wrong", "not run")


def test_a_job_without_tests_is_not_solved(weak: Sandbox) -> None:
    assert not check(weak, "def f(n): return n").solved


def test_reports_keep_the_order_of_jobs(weak: Sandbox) -> None:
    jobs = [Job(str(n), "function", f"def f(): return {n}", (f"assert f() == {n}",), ("f",)) for n in range(12)]
    reports = weak.check(jobs)
    assert [report.id for report in reports] == [str(n) for n in range(12)]
    assert all(report.solved for report in reports)


# -- what can be graded ----------------------------------------------------------------------------------------------


def test_an_item_that_needs_objects_cannot_be_graded_whatever_is_submitted(weak: Sandbox) -> None:
    pair = "class Pair:\n    def __init__(self, a): self.a = a\ndef f(p): return p.a"
    item = {"names": ("Pair", "f"), "reference": pair}
    for code in (pair, "", "junk(", "def f(p): return 3\nPair = int"):
        report = check(weak, code, "assert f(Pair(3)) == 3", **item)
        assert report.ungradable is not None, code
        assert "Pair returned a Pair" in report.ungradable
        assert not report.solved


def test_a_submission_cannot_make_its_item_ungradable(weak: Sandbox) -> None:
    reference = "def f(x): return [x]"
    tests = ("assert f(f(1)) == [[1]]",)
    for value in ("lambda: 0", "object()", "[[]] * 5_000_000", "(i for i in 'a')", "int", "__import__('os')._exit(0)"):
        report = check(weak, f"def f(x): return {value}", *tests, reference=reference)
        assert report.ungradable is None, value
        assert report.infrastructure is None, value
        assert report.passed == (False,), value
    large = "def f(x): return 'x' * (20 << 20)"
    assert check(weak, large, "assert f([f(1), f(1)]) == 1").ungradable is None
    deep = "def f(x):\n    value = []\n    for _ in range(199): value = [value]\n    return value"
    report = check(weak, deep, "assert f(f(f(1))) == 1", reference="def f(x): return 1")
    assert report.ungradable is None
    assert report.passed == (False,)


def test_a_reference_that_fails_makes_an_item_ungradable(weak: Sandbox) -> None:
    report = check(weak, "def f(n): return 2", "assert f(1) == 2", reference="def f(n): return 1")
    assert report.ungradable == "its own reference solution does not pass: wrong"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("assert f(Node(1)) == 1", "'Node'"),
        ("assert f(lambda x: x) == 1", "a function or a generator"),
        ("assert f(x for x in 'a') == 1", "a function or a generator"),
        ("assert f(1 ==", "no Python"),
        ("assert f(print) == 1", "builtin_function_or_method"),
    ],
)
def test_items_that_cannot_pass_are_known_without_a_reference(weak: Sandbox, test: str, reason: str) -> None:
    report = check(weak, "def f(n): return 1", test)
    assert report.ungradable is not None
    assert reason in report.ungradable


def test_setup_that_fails_is_the_items_fault(weak: Sandbox) -> None:
    report = check(weak, "def f(n): return 1", "assert f(1) == 1", setup="1 / 0")
    assert report.ungradable is not None
    assert "ZeroDivisionError" in report.ungradable


def test_arguments_travel_back_only_where_the_item_needs_it(weak: Sandbox) -> None:
    in_place = "def f(xs):\n    xs.sort()\n    xs[0].append(9)"
    test = "xs = [[2], [1]]\nfirst = xs\nf(xs)\nassert xs == [[1, 9], [2]] and first is xs"
    assert check(weak, in_place, test, reference=in_place).solved
    # Where a test compares with the arguments that it gave, a function that empties them must not pass.
    cheat = "def f(xs):\n    xs.clear()\n    return []"
    test = "xs = [2, 1]\nassert f(xs) == sorted(xs)"
    assert not check(weak, cheat, test, reference="def f(xs): return sorted(xs)").solved
    assert not check(weak, cheat, test).solved


def test_the_reference_runs_once_per_item(weak: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    run = weak._run
    monkeypatch.setattr(
        weak, "_run", lambda jobs, mutations: (ran.extend(job.code for job in jobs), run(jobs, mutations))[1]
    )
    for _ in range(2):
        weak.check([Job(str(n), "function", f"def f(): return {n}", ("assert f() == 77",), ("f",), reference="def f(): return 77")
                    for n in range(3)])  # fmt: skip
    assert ran.count("def f(): return 77") == 1
    assert len(ran) == 7


# -- clocks ----------------------------------------------------------------------------------------------------------


def clock() -> Clock:
    return Clock(Interpreter(0, 0, 0, 0, 0, 0, 0, ""), 0, 1.0, {"memory_bytes": 100, "tmp_bytes": 0})


def judged(
    wall: float, cpu: float = 0.0, waited: float = 0.0, memory: int = 0, checker: float = 0.0
) -> tuple[str | None, bool]:
    watch = clock()
    return watch.judge(
        wall, [Usage(cpu, waited, memory), Usage(checker, 0.0, 0)], [Usage(0.0, 0.0, 0)] * 2
    ), watch.starved


def test_sleeping_counts_and_waiting_in_line_does_not() -> None:
    assert judged(0.9) == (None, False)
    assert judged(1.1) == ("timed out after 1 s", False)
    assert judged(5.0, cpu=0.5, waited=4.4) == (None, False)  # a busy machine
    assert judged(5.0, cpu=0.5, waited=3.4) == ("timed out after 1 s", False)
    assert judged(0.6, cpu=1.1) == ("timed out after 1 s", False)  # two threads side by side
    assert judged(3.0, checker=2.5) == (None, False)  # the tests' own code computes
    assert judged(5.0, checker=4.5)[0] == "checking its answer took more than 4 s"
    assert judged(0.1, memory=101) == ("out of memory", False)


def test_a_starved_test_is_the_machines_fault() -> None:
    problem, starved = judged(21.0, cpu=0.1, waited=20.5)
    assert starved
    assert problem is not None
    assert judged(21.0, cpu=1.1, waited=20.5) == ("timed out after 1 s", False)  # it had what it is due


def test_usage_sees_processor_time_and_children() -> None:
    before = watch.usage(os.getpid())
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    after = watch.usage(os.getpid())
    assert after.cpu - before.cpu >= 0.1
    assert after.memory > 1 << 20
    assert os.getpid() in watch.tree(os.getppid())


def test_the_jobs_time_is_limited(sandbox_at: Callable[[str], Sandbox]) -> None:
    base = sandbox_at("weak")
    with Sandbox("weak", replace(base.limits, seconds=0.5, job_seconds=0.8), workers=1) as sandbox:
        report = check(sandbox, "import time\ndef f(n):\n    time.sleep(9)", *["assert f(0)"] * 6)
    assert report.passed == (False,) * 6
    assert report.details[0].startswith("timed out")
    assert report.details[-1] == "not run: the job's time was used up"


# -- levels ----------------------------------------------------------------------------------------------------------


def test_levels_are_listed_best_first_with_reasons() -> None:
    found = room.levels()
    assert list(found) == ["namespace", "landlock", "remote", "weak"]
    assert found["weak"] is None
    assert room.best_level() in ("namespace", "landlock", None)


def test_unknown_and_missing_levels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="no level 'docker'; there are namespace, landlock, remote, weak"):
        Sandbox("docker")
    monkeypatch.setattr(room, "_probed", {"namespace": "no bubblewrap", "landlock": "no Landlock"})
    with pytest.raises(SandboxError, match=r"gives no level 'namespace': no bubblewrap"):
        Sandbox("namespace")
    with pytest.raises(SandboxError, match=r"no sandbox for code \(namespace: no bubblewrap; landlock: no Landlock\)"):
        Sandbox()  # never "weak" by itself


def test_a_keeper_that_dies_is_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_command", lambda *_: ["sh", "-c", "echo ready; read line; exit 3"])
    with Sandbox("weak", workers=1) as sandbox:
        report = check(sandbox, "def f(): return 1", "assert f() == 1")
    assert report.infrastructure == "the sandbox's keeper ended with status 3"
    assert not report.solved
    monkeypatch.setattr(room, "_command", lambda *_: ["sh", "-c", "echo '! no room'"])
    with Sandbox("weak", workers=1) as sandbox:
        assert check(sandbox, "def f(): return 1", "assert f() == 1").infrastructure == "no room"


def test_a_package_that_is_not_there_is_said() -> None:
    with Sandbox("weak", workers=1, packages=["no_such_package"]) as sandbox:
        report = check(sandbox, "def f(): return 1", "assert f() == 1")
    assert report.infrastructure is not None
    assert "no_such_package" in report.infrastructure


def test_slots_are_held_until_they_are_let_go() -> None:
    first, one = levels.claim_slot()
    with first:
        second, two = levels.claim_slot()
        second.close()
        assert one != two


# -- pieces ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "wanted", "tolerance", "same"),
    [
        ("1\n2\n", "1\n2", 0, True),
        ("1 \r\n2\n\n\n", "1\n2", 0, True),
        ("", "\n", 0, True),
        ("1\n\n2", "1\n2", 0, False),
        (" 1", "1", 0, False),
        ("1  2", "1 2", 0, False),
        ("1.0000001", "1.0", 0, False),
        ("1.0000001 a", "1.0 a", 1e-6, True),
        ("1.1 a", "1.0 a", 1e-6, False),
        ("1000001", "1000000", 1e-5, True),
        ("nan", "1", 1e-6, False),
        ("inf", "1e308", 1e-6, False),
        ("nan", "nan", 1e-6, True),
        ("1 2", "1", 1e-6, False),
    ],
)
def test_outputs_are_compared_as_stated(ours: str, wanted: str, tolerance: float, same: bool) -> None:
    assert stdio.same_text(ours, wanted, tolerance) is same


@pytest.mark.parametrize(
    ("value", "wanted", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1.0, int, False),
        (1, float, False),
        ([1, 2], list[int], True),
        ([1, True], list[int], False),
        ((1,), list[int], False),
        ([], list[str], True),
        ([["a"]], list[list[str]], True),
        ({"a": 1}, dict[str, int], True),
        ({"a": "b"}, dict[str, int], False),
        ((1, "a"), tuple[int, str], True),
        ((1,), tuple[int, str], False),
        ((1, 2, 3), tuple[int, ...], True),
        ({1}, set[int], True),
        (None, int | None, True),
        ("a", int | None, False),
        ([1], "List[int]", True),
        ([1.5], "List[int]", False),
        (object, None, True),
    ],
)
def test_types_are_exact(value: object, wanted: object, fits: bool) -> None:
    assert types.matches(value, wanted) is fits


def test_limits_are_frozen_and_sane() -> None:
    with pytest.raises(AttributeError):
        Limits().seconds = 3.0  # type: ignore[misc]
    assert Limits().seconds < Limits().job_seconds


@pytest.mark.parametrize(
    ("missing", "status", "found"),
    [
        ({}, "ok", "level 'namespace'"),
        ({"namespace": "no bubblewrap"}, "warn", "level 'landlock' (namespace: no bubblewrap)"),
        ({"namespace": "no bubblewrap", "landlock": "old"}, "warn", "no level for code that models wrote"),
    ],
)
def test_doctor_says_which_level_this_machine_gives(
    missing: dict[str, str], status: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rl import doctor

    monkeypatch.setattr(room, "_probed", {"namespace": None, "landlock": None, "weak": None, **missing})
    check = doctor._sandbox()
    assert check.status == status
    assert check.found.startswith(found)
    assert bool(check.remedy) == (status != "ok")
