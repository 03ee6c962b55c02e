"""A Hugging Face Hub of this machine, which knows as much as is needed to push and to pull a model."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.toys.servers import serving

__all__ = ["LocalHub", "served_hub"]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub(BaseHTTPRequestHandler):
    """Repositories: name to file to content."""

    repositories: dict[str, dict[str, bytes]] = {}  # noqa: RUF012  shared by all requests
    uploaded: dict[str, bytes] = {}  # noqa: RUF012  large files, by SHA-256

    def do_GET(self) -> None:
        self._give(body=True)

    def do_HEAD(self) -> None:
        self._give(body=False)

    def _give(self, *, body: bool) -> None:
        resolved = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        listed = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/?]+)?(\?.*)?", self.path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^?]+(\?.*)?", self.path)
        name = next((match[1] for match in (resolved, listed, tree) if match), "")
        files = self.repositories.get(name)
        if files is None or (resolved and resolved[2] not in files):
            kind = "RepoNotFound" if files is None else "EntryNotFound"
            return self._answer(
                b'{"error": "not found"}', status=404, body=body, headers={"X-Error-Code": kind, "X-Error-Message": "not found"}
            )
        if resolved:
            content = files[resolved[2]]
            return self._answer(content, body=body, headers={"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        entries = [{"type": "file", "path": file, "size": len(content), "oid": "0" * 40} for file, content in files.items()]
        info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        return self._answer(json.dumps(entries if tree else info).encode(), body=body)

    def do_PUT(self) -> None:
        self.uploaded[self.path.rpartition("/")[2]] = self._content()
        self._answer(b"")

    def do_POST(self) -> None:
        content = self._content()
        repository = re.match(r"/api/models/([^/]+/[^/]+)/", self.path) or re.match(r"/([^/]+/[^/]+)\.git/", self.path)
        host = f"http://{self.headers['Host']}"
        answer: Any = {}
        if self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            self.repositories.setdefault(name, {})
            answer = {"url": f"{host}/{name}", "private": asked.get("private")}
        elif "/preupload/" in self.path:
            asked = json.loads(content)["files"]
            answer = {"files": [{"path": each["path"], "uploadMode": _mode(each["path"]), "shouldIgnore": False} for each in asked]}
        elif self.path.endswith("/objects/batch"):
            asked = json.loads(content)["objects"]
            actions = {each["oid"]: {"upload": {"href": f"{host}/upload/{each['oid']}"}} for each in asked}
            answer = {"transfer": "basic", "objects": [{**each, "actions": actions[each["oid"]]} for each in asked]}
        elif "/commit/" in self.path and repository:
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.repositories[repository[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "lfsFile":
                    self.repositories[repository[1]][line["value"]["path"]] = self.uploaded[line["value"]["oid"]]
            answer = {"commitUrl": f"{host}/{repository[1]}/commit/{COMMIT}", "commitOid": COMMIT, "pullRequestUrl": None}
        self._answer(json.dumps(answer).encode())

    def _content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, content: bytes, *, status: int = 200, body: bool = True, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def served_hub() -> Iterator[str]:
    """An empty hub; its address."""
    LocalHub.repositories.clear()
    with serving(LocalHub) as address:
        yield address
