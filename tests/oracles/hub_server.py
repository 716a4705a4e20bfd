"""A small Hub on loopback: the four endpoints that an upload of small files needs, and a memory of what was sent."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What a test arranges (private, status) and what it finds: repositories (name -> private), files (path -> bytes)."""

    repositories: dict[str, bool] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refuse: int | None = None  # the status that creating a repository answers with
    address: str = ""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def _answer(self, value: Any, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        name = self.path.split("?")[0].removeprefix("/api/models/").removesuffix("/revision/main")
        hub = self.server.hub
        if name in hub.repositories:
            self._answer({"id": name, "modelId": name, "private": hub.repositories[name], "tags": [], "siblings": []})
        else:
            self._answer({"error": "Repository not found"}, 404)

    def do_POST(self) -> None:
        hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub.tokens.add(str(self.headers.get("Authorization")).removeprefix("Bearer "))
        place = self.path.split("?")[0]
        if place == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if hub.refuse is not None:
                return self._answer({"error": "You have no rights there"}, hub.refuse)
            known = name in hub.repositories
            hub.repositories.setdefault(name, asked.get("visibility") == "private" or bool(asked.get("private")))
            return self._answer({"url": f"{hub.address}/{name}", "name": name}, 409 if known else 200)
        if place == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        if "/preupload/" in place:
            asked = [file["path"] for file in json.loads(body)["files"]]
            return self._answer(
                {"files": [{"path": one, "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
            )
        if "/commit/" in place:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    hub.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            name = place.removeprefix("/api/models/").partition("/commit/")[0]
            url = f"{hub.address}/{name}/commit/{'1' * 40}"
            return self._answer({"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})
        return self._answer({"error": f"no such endpoint {place}"}, 404)


class _Server(ThreadingHTTPServer):
    hub: Hub


@contextmanager
def running_hub() -> Iterator[Hub]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.hub = Hub(address=f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
