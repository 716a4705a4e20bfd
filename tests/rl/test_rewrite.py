"""``unmask rewrite`` against a small OpenAI-compatible server on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rl import rewrite as module
from rl.cli import app
from rl.config_schema import Split
from rl.errors import DataError
from rl.progress import Reporter
from rl.rewrite import KEY, ROW, Endpoint, RewriteError, rewrite

SECRET = "sk-never-write-this"
ROWS = [{"question": f"What is {i} + {i}?", "trace": f"We add {i} and {i}, slowly. #### {2 * i}"} for i in range(12)]


@dataclass
class Server:
    """What a test arranges (a reply for each message) and what it finds."""

    reply: Callable[[str, int], tuple[int, Any, dict[str, str]]]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


def answer(text: str, finish: str = "stop") -> tuple[int, Any, dict[str, str]]:
    return 200, {"choices": [{"message": {"content": text}, "finish_reason": finish}]}, {}


def short(message: str, attempt: int) -> tuple[int, Any, dict[str, str]]:
    return answer("short: " + message.rpartition("#### ")[2])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    ours = Server(short)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = body["messages"][0]["content"]
            with ours.lock:
                attempt = sum(one["messages"][0]["content"] == message for one in ours.bodies)
                ours.bodies.append(body)
                ours.keys.add(self.headers.get("Authorization"))
                ours.at_once += 1
                ours.most_at_once = max(ours.most_at_once, ours.at_once)
            status, value, headers = ours.reply(message, attempt)
            text = (value if isinstance(value, str) else json.dumps(value)).encode()
            with ours.lock:
                ours.at_once -= 1
            self.send_response(status if self.path == "/v1/chat/completions" else 404)
            for name in headers.keys() - {"Content-Length"}:
                self.send_header(name, headers[name])
            self.send_header("Content-Length", headers.get("Content-Length", str(len(text))))
            self.end_headers()
            self.wfile.write(text)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    ours.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    yield ours
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def go(server: Server, data: Path, out: Path, **options: Any) -> int:
    endpoint = Endpoint(server.url, "m", timeout=10, key=SECRET, **options.pop("endpoint", {}))
    settings = {"column": "trace", "problem": "question", "reporter": Reporter(quiet=True), **options}
    return rewrite(Split(path=str(data)), endpoint, out, **settings)


def rows_of(out: Path) -> dict[int, dict[str, Any]]:
    return {row[ROW]: row for row in map(json.loads, out.read_text().splitlines())}


def test_every_row_is_rewritten_once_with_bounded_concurrency(server: Server, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "short.jsonl"
    assert go(server, data, out, concurrency=3) == 0
    found = rows_of(out)
    assert sorted(found) == list(range(12))
    for i, row in found.items():
        assert row["completion"] == f"short: {2 * i}"
        assert {key: row[key] for key in ROWS[i]} == ROWS[i]
    assert len(server.bodies) == 12
    assert server.most_at_once <= 3
    assert server.keys == {f"Bearer {SECRET}"}
    sent = next(body for body in server.bodies if "7 + 7" in body["messages"][0]["content"])
    assert (sent["model"], sent["max_tokens"], sent["temperature"]) == ("m", 512, 0.0)
    assert "at most 512 tokens" in sent["messages"][0]["content"]
    assert go(server, data, out) == 0  # nothing is left to do
    assert len(server.bodies) == 12


def test_an_interrupted_run_goes_on_where_it_was(server: Server, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "short.jsonl"
    server.reply = lambda message, attempt: (403, "no", {}) if "5 + 5" in message else short(message, attempt)
    with pytest.raises(RewriteError, match=r"answered 403: no\. Check --url, --model and the key"):
        go(server, data, out, concurrency=1)
    assert sorted(rows_of(out)) == [0, 1, 2, 3, 4]
    out.write_text(out.read_text()[:-9])  # and the last line was cut off
    server.reply, server.bodies = short, []
    assert go(server, data, out) == 0
    assert sorted(rows_of(out)) == list(range(12))
    assert len(server.bodies) == 8


def test_what_passes_is_tried_again_later(
    server: Server, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    pause = module._pause
    monkeypatch.setattr(module, "_pause", lambda *args: (pauses.append(pause(*args)), 0.0)[1])
    busy = [(503, "busy", {}), (429, "slow down", {"Retry-After": "7"}), (500, "oops", {"Retry-After": "soon"})]
    server.reply = lambda message, attempt: busy[attempt] if "4 + 4" in message and attempt < 3 else short(message, 0)
    assert go(server, data, tmp_path / "out.jsonl", concurrency=2) == 0
    assert pauses == [1.0, 7.0, 4.0]
    assert pause(20, "") == pause(0, "1e9") == 60.0


def test_rows_that_fail_are_counted_and_asked_for_again(server: Server, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    bad = {"3 + 3": answer("half of", "length"), "8 + 8": answer("  "), "9 + 9": (503, "busy", {})}

    def reply(message: str, attempt: int) -> tuple[int, Any, dict[str, str]]:
        return next((one for key, one in bad.items() if key in message), short(message, attempt))

    server.reply = reply
    assert go(server, data, out, endpoint={"retries": 0}) == 3
    assert sorted(rows_of(out)) == [i for i in range(12) if i not in (3, 8, 9)]
    server.reply = short
    assert go(server, data, out, endpoint={"retries": 0}) == 0
    assert len(rows_of(out)) == 12


def test_an_endpoint_that_is_not_there_ends_it_soon(data: Path, tmp_path: Path) -> None:
    server = Server(short, url="http://127.0.0.1:9/v1")
    with pytest.raises(RewriteError, match=r"no row could be rewritten: 2 no answer .*Is http://127.0.0.1:9/v1/chat"):
        go(server, data, tmp_path / "out.jsonl", concurrency=2, endpoint={"retries": 0})


@pytest.mark.parametrize("reply", ["<html>", {"error": "x"}, {"choices": []}, [1]])
def test_what_is_no_openai_endpoint_is_said(server: Server, data: Path, tmp_path: Path, reply: Any) -> None:
    server.reply = lambda message, attempt: (200, reply, {})
    with pytest.raises(RewriteError, match="Is it an OpenAI-compatible endpoint"):
        go(server, data, tmp_path / "out.jsonl")


def test_other_settings_do_not_go_into_the_same_file(server: Server, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    go(server, data, out)
    with pytest.raises(RewriteError, match="for another request"):
        go(server, data, out, endpoint={"max_tokens": 100})
    out.write_text('{"a": 1}\n')
    with pytest.raises(RewriteError, match="line 1: not written by"):
        go(server, data, out)


@pytest.mark.parametrize("content", ["a note, on one line", '{"a": 1}\n{"b": 2}', "\x00\n\x01"])
def test_a_file_of_something_else_is_left_as_it_is(server: Server, data: Path, tmp_path: Path, content: str) -> None:
    """Also where its last line has no end, which in a file of ours is a line that was cut off."""
    out = tmp_path / "notes.jsonl"
    out.write_text(content)
    with pytest.raises(RewriteError, match="line 1: not written by"):
        go(server, data, out)
    assert out.read_text() == content
    with pytest.raises(RewriteError, match="this is a folder"):
        go(server, data, tmp_path)


def test_any_character_of_an_answer_survives_being_read_again(server: Server, data: Path, tmp_path: Path) -> None:
    """Line separators that are no line feeds; half a surrogate pair becomes a question mark, as it cannot be written."""
    out = tmp_path / "out.jsonl"
    server.reply = lambda message, attempt: answer("a\u2028b\u0085c\x0bd \ud800 \u65e5")
    assert go(server, data, out) == 0
    assert {json.loads(line)["completion"] for line in out.read_bytes().split(b"\n") if line} == {
        "a\u2028b\u0085c\x0bd ? \u65e5"
    }
    assert go(server, data, out) == 0
    assert len(server.bodies) == 12


def test_a_row_that_the_endpoint_refuses_does_not_stop_the_others(server: Server, data: Path, tmp_path: Path) -> None:
    """A trace that is too long is answered 400, every time; and a reply that breaks off is tried again."""
    out = tmp_path / "out.jsonl"
    server.reply = lambda message, attempt: (400, "too long", {}) if "5 + 5" in message else short(message, attempt)
    assert go(server, data, out, concurrency=3) == 1
    assert sorted(rows_of(out)) == [i for i in range(12) if i != 5]
    server.reply = lambda message, attempt: (400, "no such parameter", {})
    with pytest.raises(RewriteError, match=r"2 HTTP 400 \(no such parameter\)\. Check --model"):
        go(server, data, tmp_path / "other.jsonl", concurrency=2)


def test_a_reply_that_breaks_off_is_tried_again(
    server: Server, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_pause", lambda *args: 0.0)
    long = {"Content-Length": "9999", "Connection": "close"}
    server.reply = lambda message, attempt: (200, "{", long) if not attempt else short(message, attempt)
    assert go(server, data, tmp_path / "out.jsonl", endpoint={"retries": 1}) == 0


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000/v1", "v1", "ftp://host/v1", "file:///etc", "http://a host/v1", "http://"]
)
def test_an_address_that_is_none_is_said(data: Path, tmp_path: Path, url: str) -> None:
    with pytest.raises(RewriteError, match="this is no address of an endpoint"):
        go(Server(short, url=url), data, tmp_path / "out.jsonl")


def test_a_key_that_no_header_takes_is_not_shown(server: Server, data: Path, tmp_path: Path) -> None:
    for key in ("sk-a\nb", "sk-\u65e5", "sk a"):
        with pytest.raises(RewriteError, match="the key holds a blank") as caught:
            rewrite(Split(path=str(data)), Endpoint(server.url, "m", key=key), tmp_path / "o.jsonl", column="trace")
        assert "sk" not in str(caught.value)
    with pytest.raises(DataError, match="writes itself"):
        go(server, data, tmp_path / "out.jsonl", to=KEY)


def test_the_command(server: Server, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["rewrite", "--data", str(data), "--url", server.url, "--model", "m", "--out", str(out)]
    result = CliRunner().invoke(app, [*command, "--problem", "question"])
    assert result.exit_code == 0, result.output
    assert f"12 of 12 rows are in {out}" in "".join(result.output.split("\n"))
    assert {row[KEY] for row in rows_of(out).values()}
    result = CliRunner().invoke(app, [*command, "--column", "traces"])
    assert result.exit_code == 2
    assert "there is no column 'traces'" in result.output
    server.reply = lambda message, attempt: (401, f"the key {SECRET} is wrong", {})
    result = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "other.jsonl")])
    assert result.exit_code == 1
    assert "the key *** is wrong" in result.output
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET not in written + result.output
