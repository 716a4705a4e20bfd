"""Services that run one program and return what it printed: Sandbox Fusion and E2B, over HTTP.

Sandbox Fusion (https://bytedance.github.io/SandboxFusion/docs/api/run-code-run-code-post): POST /run_code with `code`,
`language`, `stdin`, `run_timeout`; the answer has `status` (Success, Failed, SandboxError) and `run_result` with `status`
(Finished, Error, TimeLimitExceeded), `return_code`, `stdout`.

E2B, as its Python client speaks (github.com/e2b-dev/code-interpreter, python/e2b_code_interpreter): POST /sandboxes of the API
with `templateID` and `timeout`, header X-API-Key; then POST /execute on port 49999 of the sandbox's own host, answered by lines
of JSON with a `type` (stdout, stderr, result, error, number_of_executions); DELETE /sandboxes/ID at the end. One sandbox
serves one submission.

A submission shares its sandbox with what runs it there, and may break that (end a notebook, fill a disk) so that its sample is
dropped instead of scored: `answerable` tells this from a service that fails.

Both are tested against a local server that speaks these protocols, not against the services. Not verified: how much output
they pass on, their limits of memory and processes (which are the service's, not ours), and E2B's header X-Access-Token,
which is sent where the answer to the creation holds an `envdAccessToken`.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

PATIENCE = 30.0  # seconds beyond a program's own time for a service to answer
MAX_ANSWER = 64 << 20  # bytes
# Bytes that a program may print at E2B, where we start it: as JSON in JSON they may become four times as many.
MAX_OUTPUT = 16 << 20
E2B_PORT = 49999
# Variables that hold a key; Fusion needs none by itself.
KEYS = {"fusion": "SANDBOX_FUSION_API_KEY", "e2b": "E2B_API_KEY"}
REFUSALS = (401, 403, 429, 503)  # answers of a service that did not run the program


class ServiceError(Exception):
    """The service could not be reached, or did not do its part."""


class BrokeOff(ServiceError):
    """It failed when it had been given a program to run: perhaps by the program's doing."""


class Overflow(ServiceError):
    """It answered more than MAX_ANSWER bytes."""


@dataclass(frozen=True)
class Ran:
    """What a program printed, and how it ended: its status, None if its time ran out; or in words, where there is more to say."""

    output: str
    status: int | None
    problem: str = ""


Run = Callable[[str, str, float], Ran]  # program, standard input, seconds
WROTE_TOO_MUCH = Ran("", 1, "wrote too much")


class Client(Protocol):
    """One service, for one submission. All raise ServiceError."""

    def run(self, program: str, stdin: str, seconds: float) -> Ran: ...
    def renew(self) -> None: ...  # a sandbox that no program has touched, where the service has such
    def end(self) -> None: ...


@contextmanager
def connected(service: dict[str, str]) -> Iterator[Run]:
    """A function that runs programs for one submission. `service`: the fields of `sandbox.Remote`. Raises ServiceError."""
    key = os.environ.get(KEYS[service["service"]], "")
    client = _Fusion(service, key) if service["service"] == "fusion" else _E2B(service, key)
    try:
        yield answerable(client)
    finally:
        with suppress(ServiceError):  # a sandbox ends by itself after its timeout
            client.end()


def answerable(client: Client) -> Run:
    """Runs programs, and tells who is to blame where the service breaks off.

    Such a program gets a second sandbox. If that breaks off as well, while a program of ours runs well in between and
    afterwards, the submission has done it, and is asked nothing more. Otherwise it is the service: ServiceError.
    """
    guilty: list[Ran] = []

    def run(program: str, stdin: str, seconds: float) -> Ran:
        if guilty:
            return guilty[0]
        reason = ""
        for _ in range(2):
            try:
                return client.run(program, stdin, seconds)
            except BrokeOff as error:
                reason = str(error)
            client.renew()
            _prove(client, reason)
        guilty.append(Ran("", 1, f"its sandbox at the service broke twice ({reason[:100]})"))
        return guilty[0]

    return run


def _prove(client: Client, reason: str) -> None:
    ran = client.run("print('well')", "", 10.0)
    if ran.status != 0 or ran.output.strip() != "well":
        raise ServiceError(f"{reason}; and a program of one line did not run, either")


class _Fusion:
    def __init__(self, service: dict[str, str], key: str) -> None:
        self.url = service["url"]
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def run(self, program: str, stdin: str, seconds: float) -> Ran:
        body = {"code": program, "language": "python", "stdin": stdin, "run_timeout": seconds}
        try:
            text = _asked(f"{self.url}/run_code", body, self.headers, seconds + PATIENCE)
        except Overflow:
            return WROTE_TOO_MUCH
        answer = _read(text, "Sandbox Fusion")
        result = answer.get("run_result") or {}
        if answer.get("status") == "SandboxError" or type(result) is not dict:
            raise BrokeOff(f"Sandbox Fusion failed: {str(answer.get('message'))[:200]}")
        if result.get("status") not in ("Finished", "Error", "TimeLimitExceeded"):
            raise BrokeOff(f"Sandbox Fusion failed: {str(answer.get('message'))[:200]}")
        code = result.get("return_code")
        status = None if result["status"] == "TimeLimitExceeded" else 1 if code is None else code
        return _ran(result.get("stdout") or "", status, "Sandbox Fusion")

    def renew(self) -> None: ...

    def end(self) -> None: ...


# Run in E2B's notebook: the program gets a process of its own there, so that it cannot end the notebook's by accident; its output
# goes to a file, which has a limit, and whose end nobody waits for. Folders and processes that it leaves go with the sandbox.
_CELL = """
import json, resource, subprocess, sys, tempfile
folder = tempfile.mkdtemp()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
most = {most} if hard == resource.RLIM_INFINITY else min(hard, {most})
with open(folder + "/program.py", "w", encoding="utf-8", errors="surrogatepass") as file:
    file.write({program!r})
with open(folder + "/stdin", "wb") as file:
    file.write({stdin!r}.encode(errors="replace"))
with open(folder + "/stdin", "rb") as given, open(folder + "/stdout", "w+b") as written:
    child = subprocess.Popen([sys.executable, folder + "/program.py"], stdin=given, stdout=written, stderr=subprocess.DEVNULL,
                             preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    try:
        status = child.wait({seconds!r})
    except subprocess.TimeoutExpired:
        status = None
        child.kill()
        child.wait()
    written.seek(0)
    output = written.read(most)
print(json.dumps([status, output.decode(errors="replace")]))
"""


class _E2B:
    def __init__(self, service: dict[str, str], key: str) -> None:
        self.service, self.headers = service, {"X-API-Key": key}
        self.id, self.host, self.token = "", "", {}
        self.renew()

    def run(self, program: str, stdin: str, seconds: float) -> Ran:
        cell = _CELL.format(program=program, stdin=stdin, seconds=seconds, most=MAX_OUTPUT)
        body = {"code": cell, "context_id": None, "language": None, "env_vars": None}
        try:
            answer = _asked(f"{self.host}/execute", body, self.token, seconds + PATIENCE)
        except Overflow:
            return WROTE_TOO_MUCH
        try:
            events = [json.loads(line) for line in answer.splitlines() if line.strip()]
            errors = [event for event in events if event["type"] == "error"]
            if errors:
                raise BrokeOff(f"E2B failed: {errors[0].get('name')}: {errors[0].get('value')}"[:200])
            status, output = json.loads("".join(event["text"] for event in events if event["type"] == "stdout"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BrokeOff(f"E2B answered what cannot be read: {error}") from error
        ran = _ran(output, status, "E2B")
        return WROTE_TOO_MUCH if len(ran.output.encode(errors="replace")) >= MAX_OUTPUT else ran

    def renew(self) -> None:
        with suppress(ServiceError):
            self.end()
        asked = {"templateID": self.service["template"], "timeout": 300}
        sandbox = _read(_asked(f"{self.service['url']}/sandboxes", asked, self.headers, PATIENCE), "E2B", "sandboxID")
        self.id = str(sandbox["sandboxID"])
        self.token = {"X-Access-Token": sandbox["envdAccessToken"]} if sandbox.get("envdAccessToken") else {}
        self.host = self.service["host"].format(port=E2B_PORT, id=self.id)

    def end(self) -> None:
        ended, self.id = self.id, ""
        if ended:
            _asked(f"{self.service['url']}/sandboxes/{ended}", None, self.headers, PATIENCE, "DELETE")


def _ran(output: Any, status: Any, who: str) -> Ran:
    if type(output) is not str or type(status) not in (int, type(None)):
        raise BrokeOff(f"{who} answered what cannot be read: a status or an output of another type")
    return Ran(output, status)


def _read(answer: str, who: str, needed: str = "status") -> dict[str, Any]:
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or needed not in found:
        raise BrokeOff(f"{who} answered what cannot be read: {answer[:100]!r}")
    return found


def _asked(url: str, body: dict[str, Any] | None, headers: dict[str, str], seconds: float, method: str = "POST") -> str:
    """One request; its answer as text. Raises ServiceError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    ends = time.monotonic() + seconds
    content = bytearray()
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            while part := answer.read1(1 << 20):
                content += part
                if len(content) > MAX_ANSWER:
                    raise Overflow(f"{url} answered more than {MAX_ANSWER} bytes")
                if time.monotonic() > ends:  # the timeout is that of a single piece
                    raise TimeoutError("its answer does not end")
    except urllib.error.HTTPError as error:
        kind = ServiceError if error.code in REFUSALS else BrokeOff
        raise kind(f"{url} answered {error.code}: {_beginning(error)}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BrokeOff(f"{url} cannot be reached: {error}") from error
    return content.decode(errors="replace")


def _beginning(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(200).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return "..."
