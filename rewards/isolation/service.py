"""Services that run one program and return what it printed: Sandbox Fusion and E2B, over HTTP.

Sandbox Fusion (https://bytedance.github.io/SandboxFusion/docs/api/run-code-run-code-post): POST /run_code with `code`,
`language`, `stdin`, `run_timeout`; the answer has `status` (Success, Failed, SandboxError) and `run_result` with `status`
(Finished, Error, TimeLimitExceeded), `return_code`, `stdout`.

E2B, as its Python client speaks (github.com/e2b-dev/code-interpreter, python/e2b_code_interpreter): POST /sandboxes of the API
with `templateID` and `timeout`, header X-API-Key; then POST /execute on port 49999 of the sandbox's own host, answered by lines
of JSON with a `type` (stdout, stderr, result, error, number_of_executions); DELETE /sandboxes/ID at the end. One sandbox
serves one submission.

Both are tested against a local server that speaks these protocols, not against the services. Not verified: how much output
they pass on, their limits of memory and processes (which are the service's, not ours), and E2B's header X-Access-Token,
which is sent where the answer to the creation holds an `envdAccessToken`.
"""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

PATIENCE = 30.0  # seconds beyond a program's own time for a service to answer
MAX_ANSWER = 64 << 20  # bytes
E2B_PORT = 49999
KEYS = {
    "fusion": "SANDBOX_FUSION_API_KEY",
    "e2b": "E2B_API_KEY",
}  # variables that hold a key; Fusion needs none by itself


class ServiceError(Exception):
    """The service could not be reached, or did not do its part."""


@dataclass(frozen=True)
class Ran:
    """What a program printed, and how it ended: its status, None if its time ran out."""

    output: str
    status: int | None


Run = Callable[[str, str, float], Ran]  # program, standard input, seconds


@contextmanager
def connected(service: dict[str, str]) -> Iterator[Run]:
    """A function that runs programs for one submission. `service`: the fields of `sandbox.Remote`. Raises ServiceError."""
    key = os.environ.get(KEYS[service["service"]], "")
    if service["service"] == "fusion":
        yield lambda program, stdin, seconds: _fusion(service["url"], key, program, stdin, seconds)
        return
    made = _asked(
        f"{service['url']}/sandboxes", {"templateID": service["template"], "timeout": 300}, {"X-API-Key": key}, PATIENCE
    )
    sandbox = _read(made, "E2B", "sandboxID")
    token = {"X-Access-Token": sandbox["envdAccessToken"]} if sandbox.get("envdAccessToken") else {}
    host = service["host"].format(port=E2B_PORT, id=sandbox["sandboxID"])
    try:
        yield lambda program, stdin, seconds: _e2b(host, token, program, stdin, seconds)
    finally:
        with suppress(ServiceError):  # it ends by itself after its timeout
            _asked(f"{service['url']}/sandboxes/{sandbox['sandboxID']}", None, {"X-API-Key": key}, PATIENCE, "DELETE")


def _fusion(url: str, key: str, program: str, stdin: str, seconds: float) -> Ran:
    body = {"code": program, "language": "python", "stdin": stdin, "run_timeout": seconds}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    answer = _read(_asked(f"{url}/run_code", body, headers, seconds + PATIENCE), "Sandbox Fusion")
    result = answer.get("run_result") or {}
    if answer.get("status") == "SandboxError" or result.get("status") not in ("Finished", "Error", "TimeLimitExceeded"):
        raise ServiceError(f"Sandbox Fusion failed: {str(answer.get('message'))[:200]}")
    over = result["status"] == "TimeLimitExceeded"
    status = result.get("return_code")
    return Ran(result.get("stdout") or "", None if over else 1 if status is None else int(status))


# Run in E2B's notebook: the program gets a process of its own there, so that it cannot end the notebook's.
_CELL = """
import json, subprocess, sys
open("/tmp/program.py", "w", errors="surrogatepass").write({program!r})
try:
    done = subprocess.run([sys.executable, "/tmp/program.py"], input={stdin!r}.encode(errors="replace"), timeout={seconds!r},
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    status, output = done.returncode, done.stdout
except subprocess.TimeoutExpired as error:
    status, output = None, error.stdout or b""
print(json.dumps([status, output.decode(errors="replace")]))
"""


def _e2b(host: str, token: dict[str, str], program: str, stdin: str, seconds: float) -> Ran:
    cell = _CELL.format(program=program, stdin=stdin, seconds=seconds)
    answer = _asked(
        f"{host}/execute",
        {"code": cell, "context_id": None, "language": None, "env_vars": None},
        token,
        seconds + PATIENCE,
    )
    try:
        events = [json.loads(line) for line in answer.splitlines() if line.strip()]
        errors = [event for event in events if event["type"] == "error"]
        if errors:
            raise ServiceError(f"E2B failed: {errors[0].get('name')}: {errors[0].get('value')}"[:200])
        status, output = json.loads("".join(event["text"] for event in events if event["type"] == "stdout"))
        return Ran(str(output), status if status is None else int(status))
    except (ValueError, KeyError, TypeError) as error:
        raise ServiceError(f"E2B answered what cannot be read: {error}") from error


def _read(answer: str, who: str, needed: str = "status") -> dict[str, Any]:
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if not isinstance(found, dict) or needed not in found:
        raise ServiceError(f"{who} answered what cannot be read: {answer[:100]!r}")
    return found


def _asked(url: str, body: dict[str, Any] | None, headers: dict[str, str], seconds: float, method: str = "POST") -> str:
    """One request; its answer as text. Raises ServiceError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            content = answer.read(MAX_ANSWER + 1)
    except urllib.error.HTTPError as error:
        raise ServiceError(f"{url} answered {error.code}: {error.read(200).decode(errors='replace')}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ServiceError(f"{url} cannot be reached: {error}") from error
    if len(content) > MAX_ANSWER:
        raise ServiceError(f"{url} answered more than {MAX_ANSWER} bytes")
    return content.decode(errors="replace")
