"""A stand-in for the hub: repositories that are made and committed to, by its own HTTP calls."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """What was asked of it, and what it holds by repository and file."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        self.refuses = False
        self.url = ""


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub at `url`; files that end in .safetensors go the way of large ones."""
    found = Hub()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _say(self, value: Any, status: int = 200) -> None:
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self._say({"sha": "0" * 40, "id": "x", "siblings": []})

        def do_PUT(self) -> None:
            found.large[self.path.rpartition("/")[2]] = self._body()
            self._say({})

        def do_POST(self) -> None:
            body, path = self._body(), self.path
            found.tokens.add(self.headers.get("Authorization"))
            if found.refuses:
                return self._say({"error": "no such right"}, 403)
            if path == "/api/repos/create":
                found.made.append(json.loads(body))
                name = found.made[-1].get("organization", "me") + "/" + found.made[-1]["name"]
                return self._say({"url": f"{found.url}/{name}", "id": name})
            if path == "/api/validate-yaml":
                return self._say({"errors": [], "warnings": []})
            if "/preupload/" in path:
                asked = json.loads(body)["files"]
                modes = ("lfs" if f["path"].endswith(".safetensors") else "regular" for f in asked)
                said = [
                    {"path": f["path"], "uploadMode": mode, "shouldIgnore": False}
                    for f, mode in zip(asked, modes, strict=True)
                ]
                return self._say({"files": said})
            if path.endswith("/info/lfs/objects/batch"):
                objects = [
                    o | {"actions": {"upload": {"href": f"{found.url}/large/{o['oid']}"}}}
                    for o in json.loads(body)["objects"]
                ]
                return self._say({"transfer": "basic", "objects": objects})
            if "/commit/" in path:
                repository = path.removeprefix("/api/models/").partition("/commit/")[0]
                files = found.files.setdefault(repository, {})
                for line in body.splitlines():
                    item = json.loads(line)
                    value = item["value"]
                    if item["key"] == "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                    elif item["key"] == "lfsFile":
                        files[value["path"]] = found.large[value["oid"]]
                return self._say({"commitUrl": f"{found.url}/{repository}/commit/1",
                                  "commitOid": "1" * 40, "success": True})  # fmt: skip
            return self._say({"error": path}, 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
