"""``unmask rewrite``: traces of a data set made short by a model behind an OpenAI-compatible endpoint (vLLM, SGLang, a service).

IGPO (arXiv 2509.10396) fine-tunes on traces that are as long as its rollouts; long ones are rewritten first. Every rewritten row is
appended to the output at once, and what stands there is not asked for again.
"""

import hashlib
import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.judging.endpoint import address_problem, hidden, key_problem
from rl.config_errors import listing, nearest
from rl.config_schema import Split
from rl.errors import DataError
from rl.progress import Reporter
from rl.tables import read_table

INSTRUCTION = (
    "Rewrite the solution below so that it is as short as it can be while every step that the result needs is there. Keep the final answer "
    "and the way it is written exactly as they are. Write the solution alone, in at most {tokens} tokens."
)
LATER = {408, 409, 425, 429, 500, 502, 503, 504, 529}  # HTTP statuses that pass
OF_THE_ROW = {400, 413, 422}  # a prompt that is too long, or that the service does not like; another row's may pass
LONGEST_WAIT = 60.0
ROW, KEY = "rewrite_row", "rewrite_key"  # what the output adds to a row, by which it is known again


class RewriteError(RuntimeError):
    """The rewriting cannot go on; the message says why and what to do. What was written stays."""


class _RowError(Exception):
    """A row that could not be rewritten, by its reason; others may be."""


@dataclass(frozen=True)
class Endpoint:
    """Where rewriting happens. key goes into the header of the request and nowhere else."""

    url: str
    model: str
    max_tokens: int = 512
    temperature: float = 0.0
    timeout: float = 120.0
    retries: int = 6
    key: str | None = None

    @property
    def address(self) -> str:
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    def check(self) -> None:
        """Raises ``RewriteError`` for an address or a key that no request could be sent with."""
        wrong = address_problem(self.url)
        if wrong:
            raise RewriteError(f"--url {self.url}: {wrong}")
        wrong = key_problem(self.key)
        if wrong:
            raise RewriteError(f"{wrong}; see what --key-env names")

    def body(self, message: str) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": message}],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }

    def complete(self, message: str, stop: threading.Event) -> str:
        """The answer to one message; tries again, later and later, where that may help. Raises ``RewriteError`` where nothing will."""
        reason = "stopped"
        for attempt in range(self.retries + 1):
            if stop.is_set():
                break
            try:
                return self._answer(self._post(message))
            except urllib.error.HTTPError as error:
                said = " ".join(self._hidden(error.read(2000).decode("utf-8", "replace")).split())
                if error.code in OF_THE_ROW:
                    raise _RowError(f"HTTP {error.code} ({said[:120]})") from None
                if error.code not in LATER:
                    raise RewriteError(
                        f"{self.address} answered {error.code}: {said[:300]}. Check --url, --model and the key"
                    ) from None
                reason, asked = f"HTTP {error.code}", error.headers.get("Retry-After", "")
            except (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
                reason, asked = f"no answer ({self._hidden(str(getattr(error, 'reason', error)))})", ""
            if attempt < self.retries:
                stop.wait(_pause(attempt, asked))
        raise _RowError(reason)

    def _post(self, message: str) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        request = urllib.request.Request(self.address, json.dumps(self.body(message)).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            text = response.read().decode("utf-8", "replace")
        try:
            return json.loads(text)
        except ValueError:
            raise RewriteError(
                f"{self.address} answered no JSON: {self._hidden(text)[:200]!r}. Is it an OpenAI-compatible endpoint?"
            ) from None

    def _answer(self, reply: Any) -> str:
        try:
            choice = reply["choices"][0]
            text, finish = choice["message"]["content"], choice.get("finish_reason")
        except (LookupError, TypeError, AttributeError):
            raise RewriteError(
                f"{self.address} answered without choices: {self._hidden(json.dumps(reply))[:200]}. Is it an OpenAI-compatible endpoint?"
            ) from None
        if finish == "length":
            raise _RowError(f"cut off at --max-tokens {self.max_tokens}")
        if not isinstance(text, str) or not text.strip():
            raise _RowError("empty answer")
        return text.strip().encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair cannot be written

    def _hidden(self, text: str) -> str:
        return hidden(text, self.key)


def _pause(attempt: int, asked: str) -> float:
    """Seconds before the next try: what the server asked for, else 1, 2, 4, ..., a minute at most."""
    try:
        return min(LONGEST_WAIT, max(0.0, float(asked)))
    except ValueError:
        return min(LONGEST_WAIT, 2.0**attempt)


@dataclass(frozen=True)
class Job:
    """One row: its number, its columns, what is sent, and the digest of what is sent."""

    row: int
    columns: Mapping[str, Any]
    message: str
    key: str


def jobs(
    split: Split, endpoint: Endpoint, *, column: str, problem: str | None, instruction: str | None = None
) -> list[Job]:
    """What to ask for every row. problem: the column with the problem that a trace solves, if there is one."""
    table = read_table(split, "--data")
    for option, name in (("--column", column), ("--problem", problem)):
        if name is not None and name not in table.column_names:
            near, columns = nearest(name, table.column_names), f"columns: {listing(table.column_names)}"
            raise DataError.at(option, f"there is no column {name!r}", near, columns)
    asked = instruction or INSTRUCTION.format(tokens=endpoint.max_tokens)
    found = []
    for row, columns in enumerate(table):
        assert isinstance(columns, dict)
        trace = columns[column]
        if not isinstance(trace, str) or not trace.strip():
            raise DataError.at("--column", f"row {row} has no text in {column!r}", None, "leave such rows out")
        parts = [asked, *([f"Problem:\n{columns[problem]}"] if problem else []), f"Solution:\n{trace}"]
        message = "\n\n".join(parts)
        key = hashlib.sha256(json.dumps(endpoint.body(message), sort_keys=True).encode()).hexdigest()[:16]
        found.append(Job(row, columns, message, key))
    return found


def done(out: Path, wanted: Sequence[Job]) -> set[int]:
    """Rows that the output holds. A line that was cut off is removed, once the lines before it are known to be ours.

    Raises ``RewriteError`` for rewrites of other requests, and for a file of something else, which is left as it is.
    """
    if not out.exists():
        return set()
    if out.is_dir():
        raise RewriteError(f"--out {out}: this is a folder; name a file in it, as in {out / 'short.jsonl'}")
    *whole, cut = out.read_bytes().split(b"\n")  # by line feeds alone: an answer may hold other separators
    keys, found = {job.row: job.key for job in wanted}, set()
    for number, line in enumerate(whole or [cut] if cut else whole, 1):
        try:
            row = json.loads(line.decode("utf-8"))
            index, key = row[ROW], row[KEY]
        except (ValueError, LookupError, TypeError):
            raise RewriteError(
                f"{out}, line {number}: not written by `unmask rewrite`; name another file with --out"
            ) from None
        if keys.get(index) != key:
            raise RewriteError(
                f"{out} holds a rewrite of row {index} for another request: data, model, instruction or settings have changed. "
                "Name another file with --out, or take back the change"
            )
        found.add(index)
    if cut:
        os.truncate(out, out.stat().st_size - len(cut))
    return found


def rewrite(
    split: Split,
    endpoint: Endpoint,
    out: Path,
    *,
    column: str,
    problem: str | None = None,
    to: str = "completion",
    instruction: str | None = None,
    concurrency: int = 8,
    reporter: Reporter | None = None,
) -> int:
    """Rewrite the column of every row that the output does not hold yet, into the column ``to``. Returns how many rows could not be.

    Raises ``RewriteError`` where the endpoint refuses, or answers nothing at all.
    """
    endpoint.check()
    if to in (ROW, KEY):
        raise DataError.at("--to", f"{to!r} is a column that this command writes itself", None, "name another")
    wanted = jobs(split, endpoint, column=column, problem=problem, instruction=instruction)
    known = done(out, wanted)
    left = [job for job in wanted if job.row not in known]
    failed: Counter[str] = Counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    with reporter or Reporter() as live, out.open("a", encoding="utf-8") as file:
        if left:
            live.phase("rewrite", len(wanted), done=len(known))
        for job, result in _results(left, endpoint, concurrency):
            if isinstance(result, _RowError):
                failed[str(result)] += 1
                if not known and failed.total() >= min(concurrency, len(left)):
                    away = any(reason.startswith(("no answer", "HTTP 5")) for reason in failed)
                    asked = f"Is {endpoint.address} up?" if away else "Check --model, --max-tokens and the rows"
                    raise RewriteError(f"no row could be rewritten: {_listed(failed)}. {asked}")
            else:
                known.add(job.row)
                row = {**job.columns, to: result, ROW: job.row, KEY: job.key}
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
                file.flush()
                os.fsync(file.fileno())
            live.advance("rewrite", failed=failed.total())
        live.say(f"{len(known)} of {len(wanted)} rows are in {out}" + (f"; not: {_listed(failed)}" if failed else ""))
        if failed:
            live.say("the same command asks for the missing rows again")
    return failed.total()


def _results(left: Sequence[Job], endpoint: Endpoint, concurrency: int) -> Iterator[tuple[Job, str | _RowError]]:
    """Answers as they come, ``concurrency`` requests at a time. What is under way when the caller leaves is dropped."""
    stop, waiting = threading.Event(), iter(left)
    with ThreadPoolExecutor(concurrency) as pool:
        running: dict[Future[str], Job] = {}

        def fill() -> None:
            for job in waiting:
                running[pool.submit(endpoint.complete, job.message, stop)] = job
                if len(running) >= concurrency:
                    return

        fill()
        try:
            while running:
                ready = wait(running, return_when=FIRST_COMPLETED).done
                # What ends it all comes last, so that no answer is lost which is there already.
                for future in sorted(ready, key=lambda one: _ends(one.exception())):
                    job, error = running.pop(future), future.exception()
                    if error is not None and _ends(error):
                        raise error
                    yield job, error if isinstance(error, _RowError) else future.result()
                fill()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _ends(error: BaseException | None) -> bool:
    return error is not None and not isinstance(error, _RowError)


def _listed(failed: Counter[str], most: int = 5) -> str:
    named, rest = failed.most_common(most), sum(count for _, count in failed.most_common()[most:])
    return ", ".join(
        [*(f"{count} {reason}" for reason, count in named), *([f"{rest} for other reasons"] if rest else [])]
    )
