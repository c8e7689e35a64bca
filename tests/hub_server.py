"""A Hub on 127.0.0.1, for what the Hub client and transformers ask of one: files, listings, commits, and faults.

Differs from the Hub where tests cannot tell: large files are served by itself instead of a storage host, nothing is
paginated, and a commit is a counter's hash.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt")
LICENSES = ("mit", "apache-2.0", "cc-by-nc-4.0", "other", "unknown")

Files = dict[str, bytes]


class Request(NamedTuple):
    """What was asked: method, path without the query, and the headers that matter."""

    method: str
    path: str
    token: str | None
    range: str | None


class RefusalError(Exception):
    """An answer other than success, with the Hub's own error code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Repository:
    """Files of each commit, and the commit of each branch."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit_of(self, revision: str) -> str:
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def add(self, files: Files, branch: str = "main", commit: str | None = None) -> str:
        """Put a commit with exactly these files onto a branch."""
        commit = commit or hashlib.sha1(f"{id(self)} {len(self.commits)}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit


def is_large(path: str) -> bool:
    return path.endswith(LARGE_SUFFIXES)


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag_of(path: str, content: bytes) -> str:
    """SHA-256 of what is kept as a large file, git's own id of everything else."""
    return hashlib.sha256(content).hexdigest() if is_large(path) else git_blob_id(content)


class HubServer:
    """Repositories in memory, served until `close`; or, as a context manager, until the end of the block.

    Attributes:
        endpoint: Its address.
        repositories: By "user/name".
        owners: The namespace each token may write to; other tokens may only read.
        requests: All that was asked.
        cuts: By file name: after how many bytes each of the next downloads breaks off.
        altered: By file name: what is sent instead, under the headers of the true content.
        refuses: Pattern of the paths that are answered with 503.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.owners: dict[str, str] = {"hf_writer": "user"}
        self.requests: list[Request] = []
        self.cuts: dict[str, list[int]] = {}
        self.altered: dict[str, bytes] = {}
        self.refuses: str | None = None
        self.stored: dict[str, bytes] = {}
        self.lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening: from now on connections are refused."""
        self.server.shutdown()
        self.server.server_close()

    def add(self, repo_id: str, files: Files, commit: str | None = None, branch: str = "main") -> str:
        """Put a commit with exactly these files into a repository, which is created if it does not exist."""
        return self.repositories.setdefault(repo_id, Repository()).add(files, branch, commit)

    def files(self, repo_id: str, revision: str = "main") -> Files:
        """What a repository holds."""
        repository = self.repositories[repo_id]
        return repository.commits[repository.commit_of(revision)]

    def count(self, ending: str, method: str = "GET") -> int:
        """How often a path with this ending was asked for."""
        return sum(request.method == method and request.path.endswith(ending) for request in self.requests)

    def sent(self) -> list[Request]:
        """The requests that change something."""
        return [request for request in self.requests if request.method not in ("GET", "HEAD")]


class Handler(BaseHTTPRequestHandler):
    """Routes a request to the method that answers it."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (names of http.server)

    def answer(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        token = self.headers.get("authorization", "").removeprefix("Bearer ") or None
        self.token = token
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, unquote(url.path), token, self.headers.get("range")))
        body = self.read_body()
        try:
            if self.hub.refuses and re.search(self.hub.refuses, url.path):
                raise RefusalError(503, "", "Service Unavailable")
            for method, pattern, action in ROUTES:
                if self.command in method and (match := re.fullmatch(pattern, url.path)):
                    action(self, body, **{name: unquote(value) for name, value in match.groupdict("").items()})
                    return
            raise RefusalError(404, "", f"no such route: {self.command} {self.path}")
        except RefusalError as refusal:
            self.send({"error": str(refusal)}, refusal.status, refusal.code, str(refusal))

    def read_body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, content: Any, status: int = 200, code: str = "", message: str = "") -> None:
        """Answer with JSON."""
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def readable(self, repo: str) -> Repository:
        """The repository; one that is not there and one that is private look the same."""
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and not self.owns(repo)):
            status = 401 if self.token is None else 404
            raise RefusalError(status, "RepoNotFound", "Repository not found")
        return repository

    def owns(self, repo: str) -> bool:
        return self.token is not None and self.hub.owners.get(self.token) == repo.split("/")[0]

    def writable(self, repo: str) -> None:
        if self.token is None:
            raise RefusalError(401, "", "Invalid username or password.")
        if not self.owns(repo):
            raise RefusalError(403, "", f'You don\'t have the rights to write to the namespace "{repo.split("/")[0]}"')

    def resolve(self, _: bytes, repo: str, revision: str, path: str) -> None:
        repository = self.readable(repo)
        commit = repository.commit_of(revision)
        content = repository.commits[commit].get(path)
        if content is None:
            raise RefusalError(404, "EntryNotFound", "Entry not found")
        sent = self.hub.altered.get(path, content)
        start = self.range_start()
        self.send_response(206 if start is not None else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag_of(path, content)}"')
        self.send_header("Accept-Ranges", "bytes")
        if is_large(path):
            self.send_header("X-Linked-ETag", f'"{etag_of(path, content)}"')
            self.send_header("X-Linked-Size", str(len(content)))
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(sent) - 1}/{len(sent)}")
            sent = sent[start:]
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if self.command == "GET":
            self.send_content(path, sent)

    def range_start(self) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        return int(match[1]) if match else None

    def send_content(self, path: str, content: bytes) -> None:
        cuts = self.hub.cuts.get(path)
        if cuts:
            content = content[: cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(content)

    def info(self, _: bytes, repo: str, revision: str) -> None:
        repository = self.readable(repo)
        commit = repository.commit_of(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        self.send({"id": repo, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, _: bytes, repo: str, revision: str) -> None:
        repository = self.readable(repo)
        entries = []
        for path, content in sorted(repository.commits[repository.commit_of(revision)].items()):
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_blob_id(content)}
            if is_large(path):
                entry["lfs"] = {"oid": etag_of(path, content), "size": len(content), "pointerSize": 134}
            entries.append(entry)
        self.send(entries)

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        repo = f"{wanted['organization']}/{wanted['name']}"
        self.writable(repo)
        url = f"{self.hub.endpoint}/{repo}"
        if repo in self.hub.repositories:
            self.send({"error": "You already created this model repo", "url": url}, 409)
            return
        # Older clients say `private`, newer ones `visibility`.
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.hub.repositories[repo] = Repository(private=private)
        self.hub.add(repo, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self.send({"url": url, "name": repo})

    def validate_card(self, body: bytes) -> None:
        match = re.search(r"^license: (.*)$", json.loads(body)["content"], re.MULTILINE)
        if match is None or match[1] in LICENSES:
            self.send({"errors": [], "warnings": []})
        else:
            self.send({"errors": [{"message": f'"license" must be one of {", ".join(LICENSES)}'}]}, 400)

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        repository = self.readable(repo)
        self.writable(repo)
        present = repository.commits[repository.commit_of(revision)]
        self.send(
            {
                "files": [
                    {
                        "path": path,
                        "uploadMode": "lfs" if is_large(path) else "regular",
                        "shouldIgnore": False,
                        "oid": etag_of(path, present[path]) if path in present else None,
                    }
                    for path in (file["path"] for file in json.loads(body)["files"])
                ]
            }
        )

    def lfs_batch(self, body: bytes, repo: str) -> None:
        self.readable(repo)
        self.writable(repo)
        objects = json.loads(body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.stored:
                item["actions"] = {"upload": {"href": f"{self.hub.endpoint}/storage/{item['oid']}"}}
        self.send({"transfer": "basic", "objects": objects})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise RefusalError(400, "", "content does not match its SHA-256")
        self.hub.stored[oid] = body
        self.send({})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        repository = self.readable(repo)
        self.writable(repo)
        files = dict(repository.commits[repository.commit_of(revision)])
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        asks = "create_pr" in self.query
        commit = repository.add(files, "refs/pr/1" if asks else revision)
        url = f"{self.hub.endpoint}/{repo}"
        request = f"{url}/discussions/1" if asks else None
        self.send({"commitUrl": f"{url}/commit/{commit}", "commitOid": commit, "pullRequestUrl": request})

    def harnesses(self, _: bytes) -> None:
        self.send({"standardEnvVars": [], "harnesses": {}})


REPO = r"(?P<repo>[^/]+/[^/]+)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES: tuple[tuple[tuple[str, ...], str, Callable[..., None]], ...] = (
    (("GET", "HEAD"), rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", Handler.resolve),
    (("GET",), rf"/api/models/{REPO}(?:/revision/{REVISION})?", Handler.info),
    (("GET",), rf"/api/models/{REPO}/tree/{REVISION}", Handler.tree),
    (("GET",), r"/api/agent-harnesses", Handler.harnesses),
    (("POST",), r"/api/repos/create", Handler.create),
    (("POST",), r"/api/validate-yaml", Handler.validate_card),
    (("POST",), rf"/api/models/{REPO}/preupload/{REVISION}", Handler.preupload),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    (("PUT",), r"/storage/(?P<oid>[0-9a-f]{64})", Handler.store),
    (("POST",), rf"/api/models/{REPO}/commit/{REVISION}", Handler.commit),
)
