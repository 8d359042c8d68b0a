"""A Hub on this machine: what the course's clients speak of the Hugging Face Hub's API, and its faults.

Listens on 127.0.0.1 only. Repositories are folders in memory, made when they are first asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".bin", ".ckpt", ".pkl", ".zip")  # kept as large files, as the Hub does
REPOSITORY = r"(?:(?P<kind>datasets|models)/)?(?P<id>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Files by path; `commit` and the files' ids follow from their content."""

    files: dict[str, bytes]

    @property
    def commit(self) -> str:
        """40 hexadecimal digits."""
        return hashlib.sha1(repr(sorted((p, sha256(f)) for p, f in self.files.items())).encode()).hexdigest()


@dataclass
class Fault:
    """What goes wrong with requests for `id` and `path`, both regular expressions, the first `times` times.

    kind: "gone" (404), "gated", "busy" (503) or "limit" (429) instead of an answer, or "silent". In a file:
    "slow" (nothing comes until the test is over), "cut" (half of it comes) or "wrong" (one byte is another).
    """

    kind: str
    id: str = ".*"
    path: str = ".*"
    times: float = float("inf")


@dataclass
class Hub:
    """The server. `make` gives the files of a repository that no client has written: (kind, id) -> files.

    `tokens`: token -> the account that may write with it. `asked`: every request, as (method, path, token).
    """

    make: Callable[[str, str], dict[str, bytes] | None] = lambda kind, name: None
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    port: int = 0

    def __post_init__(self):
        self.uploads, self.released, self.connections = {}, threading.Event(), set()
        self.start()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self, home) -> dict[str, str]:
        """The variables that lead the clients here, and their caches to `home`.

        Large files travel by HTTP, since the Hub's other protocol for them, Xet, is not spoken here.
        """
        here = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
        return here | {"no_proxy": "127.0.0.1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def start(self) -> None:
        """Listen, at the same port as before."""
        hub = self
        handler = type("Handler", (_Handler,), {"hub": hub})
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.server.daemon_threads = True
        self.server.handle_error = lambda *_: None  # a client that has hung up
        self.port, self.running = self.server.server_address[1], True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Go away: connections are closed and refused, as if there were no network."""
        self.running = False
        self.server.shutdown()
        self.server.server_close()
        for connection in list(self.connections):
            connection.shutdown(socket.SHUT_RDWR)

    def reset(self) -> None:
        """Forget what a test has changed, and listen."""
        self.released.set()
        self.released = threading.Event()
        for changed in (self.repositories, self.faults, self.tokens, self.asked, self.uploads):
            changed.clear()
        if not self.running:
            self.start()

    def repository(self, kind: str, name: str, revision: str = "main") -> Repository | None:
        """The repository at a revision, made now if it is not there yet; those of a name under refs/ have
        keys of their own, "owner/name@refs/pr/1"."""
        if re.fullmatch("[0-9a-f]{40}", revision):
            every = self.repositories.items()
            same = [each for (what, key), each in every if (what, key.split("@")[0]) == (kind, name)]
            return next((each for each in same if each.commit == revision), None)
        key = (kind, f"{name}@{revision}" if revision.startswith("refs/") else name)
        if key not in self.repositories:
            files = self.make(*key)
            if files is None:
                return None
            self.repositories[key] = Repository(dict(files))
        return self.repositories[key]

    def fault(self, name: str, path: str, kinds: str) -> Fault | None:
        """The first fault of one of `kinds` for this request, counted."""
        for fault in self.faults:
            here = re.fullmatch(fault.id, name) and re.fullmatch(fault.path, path)
            if fault.kind in kinds.split() and here and fault.times > 0:
                fault.times -= 1
                return fault
        return None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


class _Handler(BaseHTTPRequestHandler):
    """Routes are methods named after what they answer; each has the pattern of its address."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        super().finish()

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        bearer = self.headers.get("Authorization")
        self.token = bearer.removeprefix("Bearer ") if bearer else None
        self.hub.asked.append((self.command, self.path, self.token))
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else self.chunks()
        path = unquote(urlsplit(self.path).path)
        for method, pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split():
                return route(self, **found.groupdict())
        self.error(404, "no such address")

    do_HEAD = do_POST = do_PUT = do_GET

    def chunks(self):
        """The body of a request without a length."""
        body = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return body

    def answer(self, content=b"", status=200, **headers):
        """Send an answer; `cut` sends half of it and hangs up."""
        cut = headers.pop("cut", False)
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        self.close_connection = self.close_connection or cut

    def json(self, value, status=200, **headers):
        self.answer(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def error(self, status, message, code=None):
        headers = {"X_Error_Code": code} if code else {}
        self.json({"error": message}, status, X_Error_Message=message, **headers)

    def find(self, kind, name, path="", revision="main"):
        """The repository, or None after an answer that says why not."""
        fault = self.hub.fault(name, path, "gone gated busy limit silent")
        if fault and fault.kind == "silent":
            self.hub.released.wait(30)
            fault = None
        kind = kind or "models"
        repository = None if fault else self.hub.repository(kind, name, revision or "main")
        if self.token and self.token not in self.hub.tokens:
            self.error(401, "Invalid credentials in Authorization header")
            return None
        if fault and fault.kind == "busy":
            self.error(503, "over capacity")
        elif fault and fault.kind == "limit":
            self.error(429, "too many requests")
        elif fault and fault.kind == "gated":
            self.error(403 if self.token else 401, f"Access to {kind}/{name} is restricted", "GatedRepo")
        elif repository is None:  # the Hub tells strangers the same of what is gone and what is private
            self.error(404 if self.token else 401, "Repository not found", "RepoNotFound")
        return repository

    def may_write(self, name):
        """Whether the token's account owns the name; says so if not."""
        account = self.hub.tokens.get(self.token)
        if account is None:
            self.error(401, "Invalid credentials in Authorization header")
        elif account != name.split("/")[0]:
            self.error(403, "you don't have the rights to write here")
        return account == name.split("/")[0]

    # --- reading ---

    def file(self, kind, id, revision, path):
        """/owner/name/resolve/main/path: small files at once, large ones by a redirection."""
        repository = self.find(kind, id, path, revision)
        if repository is None:
            return
        named = {"X_Repo_Commit": repository.commit}
        if path not in repository.files:
            return self.error_entry(named)
        content = repository.files[path]
        if not is_large(path):
            return self.content(id, path, content, ETag=f'"{git_id(content)}"', **named)
        digest = sha256(content)
        named |= {"X_Linked_ETag": f'"{digest}"', "X_Linked_Size": len(content)}
        place = f"{self.hub.address}/cdn/{kind or 'models'}/{id}/{repository.commit}/{path}"
        self.answer(status=302, Location=place, **named)

    def error_entry(self, named):
        self.json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", **named)

    def large(self, kind, id, commit, path):
        """/cdn/...: the content of a large file."""
        repository = self.hub.repository(kind, id, commit)
        content = repository.files[path]
        self.content(id, path, content, ETag=f'"{sha256(content)}"', X_Repo_Commit=repository.commit)

    def content(self, id, path, content, **named):
        """A file's bytes from where the client asks for; here they can be cut and changed."""
        if self.command == "HEAD":
            return self.answer(content, **named)
        if self.hub.fault(id, path, "slow"):
            self.hub.released.wait(30)
        if self.hub.fault(id, path, "wrong"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        cut = self.hub.fault(id, path, "cut")
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if first is None:
            return self.answer(content, cut=bool(cut), **named)
        first, whole = int(first[1]), len(content)
        named["Content_Range"] = f"bytes {first}-{whole - 1}/{whole}"
        if cut:  # the same place again: nothing comes
            self.close_connection = True
            return None
        return self.answer(content[first:], 206, **named)

    def information(self, kind, id, revision=None):
        """/api/models/owner/name"""
        repository = self.find(kind, id, revision=revision)
        if repository is not None:
            files = [{"rfilename": path} for path in sorted(repository.files)]
            self.json({"id": id, "sha": repository.commit, "siblings": files, "private": False, "tags": []})

    def tree(self, kind, id, revision):
        """/api/models/owner/name/tree/main"""
        repository = self.find(kind, id, revision=revision)
        if repository is not None:
            self.json([_entry(path, content) for path, content in sorted(repository.files.items())])

    def paths(self, kind, id, revision):
        """/api/models/owner/name/paths-info/main"""
        repository = self.find(kind, id, revision=revision)
        if repository is not None:
            form = self.headers.get("Content-Type", "").startswith("application/json")
            wanted = json.loads(self.body)["paths"] if form else parse_qs(self.body.decode())["paths"]
            self.json([_entry(path, repository.files[path]) for path in wanted if path in repository.files])

    # --- writing ---

    def whoami(self):
        account = self.hub.tokens.get(self.token)
        if account is None:
            return self.error(401, "Invalid credentials in Authorization header")
        self.json({"type": "user", "name": account, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self):
        """/api/repos/create"""
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or self.hub.tokens.get(self.token)}/{wanted['name']}"
        kind = (wanted.get("type") or "model") + "s"
        if not self.may_write(name):
            return
        new = (kind, name) not in self.hub.repositories
        self.hub.repositories.setdefault((kind, name), Repository({}))
        prefix = "" if kind == "models" else kind + "/"
        self.json({"url": f"{self.hub.address}/{prefix}{name}", "name": name}, 200 if new else 409)

    def validate(self):
        """/api/validate-yaml: the head of a card"""
        self.json({"errors": [], "warnings": []})

    def preupload(self, kind, id, revision):
        """Which files go as large ones."""
        if self.may_write(id) and self.find(kind, id) is not None:
            mode = {True: "lfs", False: "regular"}
            files = [
                {"path": f["path"], "uploadMode": mode[is_large(f["path"])], "shouldIgnore": False}
                for f in json.loads(self.body)["files"]
            ]
            self.json({"files": files})

    def batch(self, kind, id):
        """owner/name.git/info/lfs/objects/batch: where the large files go"""
        if self.may_write(id):
            objects = json.loads(self.body)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"{self.hub.address}/upload/{each['oid']}"}}
            self.json({"transfer": "basic", "objects": objects})

    def upload(self, digest):
        self.hub.uploads[digest] = self.body
        self.answer()

    def commit(self, kind, id, revision):
        """/api/models/owner/name/commit/main: a line a change"""
        repository = self.find(kind, id)
        if repository is None or not self.may_write(id):
            return
        for line in self.body.decode().splitlines():
            change = json.loads(line)
            key, value = change["key"], change["value"]
            if key == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                content = self.hub.uploads[value["oid"]]
                if sha256(content) != value["oid"]:
                    return self.error(400, "the upload of a large file is not whole")
                repository.files[value["path"]] = content
        commit = repository.commit
        address = f"{self.hub.address}/{id}/commit/{commit}"
        self.json({"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""})


def _entry(path, content):
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_id(content)}
    if is_large(path):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 134}
    return entry


API = f"/api/{REPOSITORY}"
ROUTES = [
    ("GET HEAD", f"/{REPOSITORY}/resolve/(?P<revision>refs/[^/]+/[^/]+|[^/]+)/(?P<path>.+)", _Handler.file),
    ("GET HEAD", "/cdn/(?P<kind>[^/]+)/(?P<id>[^/]+/[^/]+)/(?P<commit>[^/]+)/(?P<path>.+)", _Handler.large),
    ("GET", API, _Handler.information),
    ("GET", f"{API}/revision/(?P<revision>.+)", _Handler.information),
    ("GET", f"{API}/tree/(?P<revision>refs/[^/]+/[^/]+|[^/]+)", _Handler.tree),
    ("POST", f"{API}/paths-info/(?P<revision>.+)", _Handler.paths),
    ("GET", "/api/whoami-v2", _Handler.whoami),
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("POST", f"{API}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", rf"/{REPOSITORY}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", "/upload/(?P<digest>[0-9a-f]+)", _Handler.upload),
    ("POST", f"{API}/commit/(?P<revision>.+)", _Handler.commit),
]
