"""Services that run programs, played by a local server that speaks their protocols. The checker stays here."""

import ast
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from rewards.isolation.remote import Session, predicted, program
from rewards.isolation.service import _CELL, Ran
from rewards.sandbox import Job, Limits, Remote, Report, Sandbox, SandboxError, StdioTest

LIMITS = Limits(seconds=1.0, start_seconds=5.0, job_seconds=30.0)


class Service(BaseHTTPRequestHandler):
    """Sandbox Fusion under /run_code; E2B's API under /sandboxes, and a sandbox of it under /execute."""

    seen: list[tuple[str, str, dict[str, Any], dict[str, str]]]
    fail: dict[str, Any]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append(("POST", self.path, body, dict(self.headers)))
        if self.path in self.fail:
            status, answer = self.fail[self.path]
            self.answer(status, answer)
        elif self.path == "/run_code":
            self.answer(200, fusion(body))
        elif self.path == "/sandboxes":
            self.answer(201, {"sandboxID": "sb1", "templateID": body["templateID"], "envdAccessToken": "token"})
        elif self.path == "/execute":
            self.answer(200, "".join(json.dumps(event) + "\n" for event in e2b(body["code"])))
        else:
            self.answer(404, "no such page")

    def do_DELETE(self) -> None:
        self.seen.append(("DELETE", self.path, {}, dict(self.headers)))
        self.answer(204, "")

    def answer(self, status: int, content: Any) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def executed(code: str, stdin: str, seconds: float) -> tuple[int | None, str]:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "main.py")
        program.write_text(code)
        try:
            done = subprocess.run([sys.executable, "-I", str(program)], input=stdin.encode(), stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, timeout=seconds, cwd=folder)  # fmt: skip
        except subprocess.TimeoutExpired as error:
            return None, (error.stdout or b"").decode(errors="replace")
        return done.returncode, done.stdout.decode(errors="replace")


def fusion(body: dict[str, Any]) -> dict[str, Any]:
    assert body["language"] == "python"
    status, output = executed(body["code"], body["stdin"], body["run_timeout"])
    how = "TimeLimitExceeded" if status is None else "Finished"
    result = {"status": how, "execution_time": 0.1, "return_code": status, "stdout": output, "stderr": ""}
    return {
        "status": "Success" if status == 0 else "Failed",
        "message": "",
        "compile_result": None,
        "run_result": result,
    }


def e2b(code: str) -> list[dict[str, Any]]:
    """A notebook's cell, in a process of its own; its output comes in pieces."""
    status, output = executed(code, "", 60)
    assert status == 0
    pieces = [output[start : start + 1000] for start in range(0, len(output), 1000)]
    return [
        {"type": "number_of_executions", "execution_count": 1},
        *({"type": "stdout", "text": text, "timestamp": 1} for text in pieces),
    ]


@pytest.fixture
def service() -> Iterator[tuple[str, type[Service]]]:
    handler = type("Handler", (Service,), {"seen": [], "fail": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


@pytest.fixture(params=["fusion", "e2b"])
def sandbox(
    request: pytest.FixtureRequest, service: tuple[str, type[Service]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sandbox]:
    monkeypatch.setenv("E2B_API_KEY", "key-of-e2b")
    monkeypatch.setenv("SANDBOX_FUSION_API_KEY", "key-of-fusion")
    with Sandbox("remote", LIMITS, workers=1, remote=remote(request.param, service[0])) as made:
        yield made


def remote(kind: Literal["fusion", "e2b"], url: str) -> Remote:
    return Remote(kind, url, host=url)


def check(sandbox: Sandbox, code: str, *tests: str, **more: Any) -> Report:
    (report,) = sandbox.check([Job("job", "function", code, tests, ("f",), **more)])
    return report


def runs(handler: type[Service]) -> int:
    return sum(path in ("/run_code", "/execute") for _, path, _, _ in handler.seen)


def test_usual_tests_cost_one_request(sandbox: Sandbox, service: tuple[str, type[Service]]) -> None:
    code = "def f(a, b=0):\n    print('noise')\n    return a + b"
    report = check(
        sandbox, code, "assert f(1, 2) == 3", "assert f(1, b=2) == 4", "assert f([1], [2]) == [1, 2]", "assert f('a')"
    )
    assert report.passed == (True, False, True, False)
    assert report.details[3] == 'raised TypeError: can only concatenate str (not "int") to str'
    assert runs(service[1]) == 1


def test_calls_that_depend_on_answers_go_one_by_one(sandbox: Sandbox, service: tuple[str, type[Service]]) -> None:
    code = "total = 0\ndef f(n):\n    global total\n    total += n\n    return total"
    report = check(sandbox, code, "x = f(1)\nassert f(x + 1) == 3", "assert f(10) == 13")
    assert report.passed == (True, True), report
    assert runs(service[1]) >= 2


def test_a_check_function_is_read_ahead(sandbox: Sandbox, service: tuple[str, type[Service]]) -> None:
    setup = "def check(candidate):\n    assert candidate(1) == 2\n    assert candidate(2) == 3\n    assert candidate([1][0]) == 2"
    report = check(sandbox, "def f(n): return n + 1", "check(f)", setup=setup)
    assert report.solved, report
    assert runs(service[1]) == 2  # the third argument is no literal


def test_what_goes_wrong_is_told(sandbox: Sandbox) -> None:
    code = "import os\ndef f(n):\n    if n == 1: os._exit(7)\n    while n == 2: pass\n    return n"
    report = check(sandbox, code, *(f"assert f({n}) == {n}" for n in (0, 1, 2, 3)))
    assert report.passed == (True, False, False, True), report
    assert "exit status 7" in report.details[1]
    assert report.details[2] == "timed out after 1 s"
    assert "SyntaxError" in (check(sandbox, "def f(:", "assert f(1)").error or "")
    assert "exit status 0" in (check(sandbox, "import os; os._exit(0)", "assert f(1)").error or "")


def test_programs_and_puzzles(sandbox: Sandbox) -> None:
    tests = (StdioTest("4\n", "8"), StdioTest("4\n", "9"), StdioTest("x\n", "8"))
    puzzle = Job("p", "puzzle", "def f(n=7): return n", ("def sat(x: int, n=7): return x == n",), ("f",))
    reports = sandbox.check([Job("double", "stdio", "print(int(input()) * 2)", tests), puzzle])
    assert reports[0].passed == (True, False, False)
    assert reports[0].details[2] == "its process ended (exit status 1)"
    assert reports[1].solved


def test_equal_arguments_of_different_types_are_different_calls(sandbox: Sandbox) -> None:
    """`f(1)` is read ahead, and `f(True)` is asked first."""
    report = check(
        sandbox, "f = repr", "x = True\nassert f(x) == 'True'", "assert f(1) == '1'", "assert f(1.0) == '1.0'"
    )
    assert report.passed == (True, True, True), report


def test_a_process_that_closed_its_channel_and_stays_is_not_waited_for() -> None:
    code = "import os, time\ndef f(n):\n    if n == 1: os._exit(7)\n    os.closerange(3, 30)\n    time.sleep(30)"
    load, calls = ["load", code, "submission"], [["call", "f", ["l", n], ["d"], False] for n in (1, 2)]
    for call, status in zip(calls, (7, -signal.SIGALRM), strict=True):
        text = program([json.dumps(load), json.dumps(call)], {"seconds": 0.3, "start_seconds": 10.0})
        ran = subprocess.run([sys.executable, "-c", text], stdout=subprocess.PIPE, timeout=20)
        assert (ran.returncode, ran.stdout) == (status, b'["loaded"]\n')


def test_lines_without_end_are_not_kept() -> None:
    session = Session(lambda *_: Ran('["loaded"]\n' + "\n" * 1000 + "1\n2\n3\n", 0), asdict(LIMITS), [["call", "f"]])
    assert session.answer(["load", "", ""]) == b'\x0a\0\0\0["loaded"]'
    assert session.answers == ['["loaded"]', "1"]


def test_tests_that_are_no_python_are_not_read_ahead() -> None:
    for wrong in ("assert f(", "\0", "(" * 1000):
        assert predicted({"setup": wrong, "tests": ["f(1)"], "names": ["f"], "mutation": False}, 0) == []
        assert predicted({"setup": "", "tests": [wrong], "names": ["f"], "mutation": False}, 0) == []


def test_keys_go_where_they_belong(sandbox: Sandbox, service: tuple[str, type[Service]]) -> None:
    check(sandbox, "def f(): return 1", "assert f() == 1")
    seen = service[1].seen
    if sandbox.remote and sandbox.remote.service == "fusion":
        assert [headers.get("Authorization") for *_, headers in seen] == ["Bearer key-of-fusion"]
        return
    assert [(method, path) for method, path, *_ in seen] == [
        ("POST", "/sandboxes"),
        ("POST", "/execute"),
        ("DELETE", "/sandboxes/sb1"),
    ]
    assert [headers.get("X-Api-Key") for *_, headers in seen] == ["key-of-e2b", None, "key-of-e2b"]
    assert seen[1][3].get("X-Access-Token") == "token"


FUSION_ERROR = {"status": "SandboxError", "message": "no room", "compile_result": None, "run_result": None}
E2B_ERROR = json.dumps({"type": "error", "name": "KernelDied", "value": "gone", "traceback": ""})


@pytest.mark.parametrize(
    ("path", "status", "answer", "reason"),
    [
        ("/run_code", 503, "busy", "answered 503: busy"),
        ("/run_code", 200, FUSION_ERROR, "no room"),
        ("/run_code", 200, "no json", "cannot be read"),
        ("/sandboxes", 401, "bad key", "answered 401: bad key"),
        ("/sandboxes", 200, {}, "cannot be read"),
        ("/execute", 502, "gone", "answered 502"),
        ("/execute", 200, E2B_ERROR, "KernelDied"),
        ("/execute", 200, "nonsense", "cannot be read"),
    ],
)
def test_a_service_that_fails_is_infrastructure(
    service: tuple[str, type[Service]], path: str, status: int, answer: Any, reason: str
) -> None:
    service[1].fail[path] = (status, answer)
    with Sandbox(
        "remote", LIMITS, workers=1, remote=remote("fusion" if path == "/run_code" else "e2b", service[0])
    ) as sandbox:
        report = check(sandbox, "def f(): return 1", "assert f() == 1")
    assert report.infrastructure is not None
    assert reason in report.infrastructure
    assert not report.solved


def test_a_service_that_is_not_there_is_infrastructure() -> None:
    with Sandbox("remote", LIMITS, workers=1, remote=Remote("fusion", "http://127.0.0.1:9")) as sandbox:
        report = check(sandbox, "def f(): return 1", "assert f() == 1")
    assert report.infrastructure is not None
    assert "cannot be reached" in report.infrastructure


def test_the_level_and_the_service_belong_together() -> None:
    for level, service in (("remote", None), ("weak", Remote("fusion", "http://127.0.0.1:9"))):
        with pytest.raises(SandboxError, match="belong together"):
            Sandbox(level, remote=service)


def test_what_is_read_ahead_is_what_tests_ask() -> None:
    job = {"names": ["f", "g"], "setup": "def check(candidate):\n    candidate(9)", "mutation": False,
           "tests": ["assert f(g(1), 2) == f(3)", "check(f)", "assert f(x) or f(*[1])", "assert f(-1, k=[(1,)])"]}  # fmt: skip
    calls = [(call[1], call[2], call[3]) for call in predicted(job, 0)]
    assert calls == [
        ("g", ["l", 1], ["d"]),
        ("f", ["l", 3], ["d"]),
        ("f", ["l", 9], ["d"]),
        ("f", ["l", -1], ["d", "k", ["l", ["t", 1]]]),
    ]
    assert len(predicted(job, 3)) == 1


def test_the_notebook_cell_is_python() -> None:
    cell = _CELL.format(program="print('ü\\n')", stdin="a'\"", seconds=1.5, most=9)
    stated = {node.value for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Constant)}
    assert {"print('ü\\n')", "a'\"", 1.5} <= stated  # whatever quotes stand in them


@pytest.mark.parametrize("kind", ["function", "stdio"])
def test_the_jobs_time_is_limited_here_too(
    kind: Literal["function", "stdio"], service: tuple[str, type[Service]]
) -> None:
    """Calls that cannot be read ahead cost a program each, which makes all earlier ones again."""
    limits = Limits(seconds=1.0, start_seconds=5.0, job_seconds=1.0)
    if kind == "stdio":
        job = Job("slow", kind, "import time\ntime.sleep(0.5)\nprint(1)", (StdioTest("", "1"),) * 8)
    else:
        code = "import time\ndef f(n):\n    time.sleep(0.3)\n    return n"
        tests = tuple(f"k = 1\nassert f(k + {n}) == {n} + 1" for n in range(8))
        job = Job("slow", kind, code, tests, ("f",))
    with Sandbox("remote", limits=limits, workers=1, remote=remote("fusion", service[0])) as sandbox:
        (report,) = sandbox.check([job])
    assert report.infrastructure is None
    assert report.passed[0]
    assert not report.passed[-1]
    assert report.details[-1] == "not run: the job's time was used up"
