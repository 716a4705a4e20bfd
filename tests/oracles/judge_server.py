"""A small OpenAI-compatible server on loopback whose answers a test arranges."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any, dict[str, str]]


@dataclass
class JudgeServer:
    """reply(body, attempt) -> (status, value, headers); attempt counts equal bodies before. What it was asked stands in the rest."""

    reply: Callable[[dict[str, Any], int], Answer]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    models: list[str] = field(default_factory=lambda: ["judge-7b", "judge-70b"])
    at_once: int = 0
    most_at_once: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


def says(text: str, *, tokens: list[Any] | None = None, finish: str = "stop", usage: bool = True) -> Answer:
    """A good answer. tokens: [(token, {alternative: log-probability})] for `logprobs`."""
    listed = [
        {"token": token, "logprob": 0.0, "top_logprobs": [{"token": t, "logprob": p} for t, p in others.items()]}
        for token, others in tokens or []
    ]
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
    choice["logprobs"] = {"content": listed} if tokens is not None else None
    value: dict[str, Any] = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    if usage:
        value["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return 200, value, {}


def asked(body: dict[str, Any]) -> str:
    """The judge's question, without what a second request adds."""
    return body["messages"][0]["content"]


def fence(body: dict[str, Any], name: str) -> str:
    """The text that stands in a fence of the question."""
    return asked(body).split(f"<<{name.upper()} ")[1].split(">>\n", 1)[1].split(f"\n<<END {name.upper()} ")[0]


@contextmanager
def serving(reply: Callable[[dict[str, Any], int], Answer]) -> Iterator[JudgeServer]:
    ours = JudgeServer(reply)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:
            listed = {"object": "list", "data": [{"id": one, "object": "model"} for one in ours.models]}
            self._answer((200, listed, {}) if self.path == "/v1/models" else (404, {"error": "no"}, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with ours.lock:
                attempt = sum(one == body for one in ours.bodies)
                ours.bodies.append(body)
                ours.keys.add(self.headers.get("Authorization"))
                ours.at_once += 1
                ours.most_at_once = max(ours.most_at_once, ours.at_once)
            answer = ours.reply(body, attempt) if self.path == "/v1/chat/completions" else (404, "no such path", {})
            with ours.lock:
                ours.at_once -= 1
            self._answer(answer)

        def _answer(self, answer: Answer) -> None:
            status, value, headers = answer
            text = (value if isinstance(value, str) else json.dumps(value)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(value, str) else "application/json")
            for name, one in headers.items():
                self.send_header(name, one)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    ours.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    try:
        yield ours
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
