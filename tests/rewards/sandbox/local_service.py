"""A service that runs programs, on loopback, in a process of its own: Sandbox Fusion's protocol and E2B's.

`python local_service.py LIMITS` writes its port, and ends with all that it started when its standard input does. What is posted
runs for real, as untrusted as it is: in this project's own sandbox, at level "namespace", under LIMITS (the fields of `Limits`,
as JSON). It behaves as services do: one process a request at Fusion, one notebook a sandbox at E2B, limits of its own, and output
that is cut off where it is too much.
"""

import http.client
import json
import os
import re
import select
import signal
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ForkingMixIn
from typing import Any

from rewards.isolation import confine, stdio, wire
from rewards.isolation.interpreter import Interpreter
from rewards.isolation.keeper import Keeper
from rewards.isolation.watch import Clock

CELL_SECONDS = 10.0  # the most that a cell may take
# What plays E2B's notebook, inside the sandbox: cells come on its standard input, what they print goes out, a line each.
NOTEBOOK = """
import contextlib, io, json, os, sys
said = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
for line in sys.stdin:
    output, error = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(output):
            exec(compile(json.loads(line), "cell", "exec"), {"__name__": "__main__"})
    except BaseException as raised:
        error = [type(raised).__name__, str(raised)]
    print(json.dumps([output.getvalue(), error]), file=said, flush=True)
"""


def ended(wait: float = 0.0) -> bool:
    """Whether whoever started this service has ended it."""
    return bool(select.select([0], [], [], wait)[0])


class Handler(BaseHTTPRequestHandler):
    limits: dict[str, Any]

    def body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")

    def answer(self, status: int, content: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content.encode())))
        self.end_headers()
        self.wfile.write(content.encode())
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None: ...


class Front(Handler):
    """Sandbox Fusion's server and E2B's API. Each request has a process of its own."""

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/run_code":
            status, output = executed(body["code"], body["stdin"], body["run_timeout"], self.limits)
            how = "TimeLimitExceeded" if status is None else "Finished"
            result = {"status": how, "execution_time": 0.1, "return_code": status, "stdout": output, "stderr": ""}
            said = "Success" if status == 0 else "Failed"
            self.answer(200, json.dumps({"status": said, "message": "", "compile_result": None, "run_result": result}))
        elif self.path == "/sandboxes":
            with HTTPServer(("127.0.0.1", 0), Notebook) as server:
                if os.fork() == 0:
                    self.connection.close()
                    self.server.server_close()
                    try:
                        serve_sandbox(server, self.limits)
                    finally:
                        os._exit(0)
            self.answer(201, json.dumps({"sandboxID": str(server.server_port), "templateID": body["templateID"]}))
        else:
            self.answer(404)

    def do_DELETE(self) -> None:
        with suppress(OSError, http.client.HTTPException):
            sandbox = http.client.HTTPConnection("127.0.0.1", int(self.path.rpartition("/")[2]), timeout=20)
            sandbox.request("DELETE", "/")
            sandbox.getresponse()
        self.answer(204)


class FrontServer(ForkingMixIn, HTTPServer):
    max_children = 64

    def service_actions(self) -> None:
        super().service_actions()
        with suppress(ChildProcessError):  # sandboxes whose makers are gone
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if ended():
            raise KeyboardInterrupt


def executed(program: str, stdin: str, seconds: float, limits: dict[str, Any]) -> tuple[int | None, str]:
    """Status (None: out of time) and output of one program."""
    keeper = Keeper("namespace", limits, [])
    try:
        interpreter = keeper.starter.start()
        keeper.starter.await_ready(interpreter)
        try:
            outcome = stdio.run(interpreter, program, stdin, {**limits, "seconds": seconds})
        finally:
            keeper.starter.end(interpreter)
    finally:
        keeper.close()
    return status(outcome.problem), outcome.output.decode(errors="replace")


def status(problem: str) -> int | None:
    """As a service would report what ended a program: its status, minus a signal, None where its time ran out."""
    if not problem or problem.startswith("timed out"):
        return None if problem else 0
    if found := re.search(r"(exit status|signal) (\d+)", problem):
        return int(found[2]) if found[1] == "exit status" else -int(found[2])
    return -signal.SIGKILL


class Notebook(Handler):
    """A sandbox of E2B: a notebook that lives until it is deleted, or killed by what runs in it."""

    keeper: Keeper
    interpreter: Interpreter
    alive: bool
    deleted: bool

    def do_POST(self) -> None:
        code = self.body()["code"]
        kind = type(self)
        if not kind.alive:
            self.answer(502, "the sandbox does not answer")
            return
        try:
            text, error = json.loads(cell(code, self.interpreter, self.limits))
        except (OSError, ValueError) as problem:
            kind.alive = False
            text, error = "", ["KernelDied", str(problem)]
        events: list[dict[str, Any]] = [{"type": "number_of_executions", "execution_count": 1}]
        events += [{"type": "stdout", "text": text[at : at + 4096]} for at in range(0, len(text), 4096)]
        events += [{"type": "error", "name": error[0], "value": error[1], "traceback": ""}] if error else []
        self.answer(200, "".join(json.dumps(event) + "\n" for event in events))

    def do_DELETE(self) -> None:
        type(self).deleted = True
        self.answer(204)


def serve_sandbox(server: HTTPServer, limits: dict[str, Any]) -> None:
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER)
    keeper = Keeper("namespace", limits, [])
    interpreter = keeper.starter.start()
    try:
        keeper.starter.await_ready(interpreter)
        Notebook.interpreter, Notebook.alive, Notebook.deleted = interpreter, True, False
        wire.send(interpreter.requests, wire.dump(["program", NOTEBOOK]))
        while not Notebook.deleted and not ended():
            server.timeout = 0.1
            server.handle_request()
    finally:
        keeper.starter.end(interpreter)
        keeper.close()


def cell(code: str, interpreter: Interpreter, limits: dict[str, Any]) -> bytes:
    """The notebook's answer. Raises OSError where it gives none: it is dead, or beyond its limits."""
    left = memoryview(json.dumps(code).encode() + b"\n")
    os.set_blocking(interpreter.stdin, False)
    clock = Clock(interpreter, 0, CELL_SECONDS, limits)
    ends = time.monotonic() + CELL_SECONDS
    answer = bytearray()
    while not answer.endswith(b"\n"):
        hear = [interpreter.stdout, 0]
        readable, writable, _ = select.select(hear, [interpreter.stdin] if left else [], [], 0.05)
        if 0 in readable:
            raise OSError("the service ends")
        if writable:
            left = left[os.write(interpreter.stdin, left[:65536]) :]
        if interpreter.stdout in readable:
            part = os.read(interpreter.stdout, 1 << 20)
            answer += part
            if not part or len(answer) > 4 * limits["output_bytes"]:
                raise OSError("it said too much" if part else "it is dead")
        problem = clock.problem() or ("it does not answer" if time.monotonic() > ends else None)
        if problem:
            raise OSError(problem)
    return bytes(answer)


def main(limits: str) -> None:
    Handler.limits = json.loads(limits)
    confine.prctl(confine.PR_SET_CHILD_SUBREAPER)
    confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)
    with FrontServer(("127.0.0.1", 0), Front) as server:
        print(server.server_port, flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)
    with suppress(ChildProcessError):  # all see the end of standard input
        while True:
            os.wait()


if __name__ == "__main__":
    main(sys.argv[1])
