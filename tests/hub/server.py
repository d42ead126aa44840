"""A stand-in for the Hub's HTTP API on 127.0.0.1: repositories, commits, files, tokens. huggingface_hub is real."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_token_of_the_tests"


class Repository:
    """The commits of a repository, each with all files by name; "main" is the last one."""

    def __init__(self, private):
        self.private, self.commits = private, {}
        self.commit({".gitattributes": b""})

    def commit(self, files):
        name = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[name] = dict(files)
        self.main = name
        return name

    def at(self, revision):
        name = self.main if revision == "main" else revision
        return name, self.commits.get(name)


class Hub:
    """The repositories of a server and the requests it received."""

    def __init__(self):
        self.repositories, self.requests = {}, []


def _blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def handle_all(self):
        url = urlsplit(self.path)
        words = [unquote(word) for word in url.path.strip("/").split("/")]
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        hub = self.server.hub
        hub.requests.append((self.command, url.path))
        signed = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if words[:3] == ["api", "repos", "create"]:
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            if not signed:
                return self.refuse(401, "Unauthorized")
            if name in hub.repositories:
                return self.answer(409, {"url": f"http://{self.headers['Host']}/{name}"})
            private = given.get("private") or given.get("visibility") == "private"
            hub.repositories[name] = Repository(bool(private))
            return self.answer(200, {"url": f"http://{self.headers['Host']}/{name}"})
        if words == ["api", "validate-yaml"]:
            problems = [] if "library_name: xrayfast" in json.loads(body)["content"] else [{"message": "no library"}]
            return self.answer(400 if problems else 200, {"errors": problems, "warnings": []})
        if words[:2] == ["api", "models"]:
            name, rest = "/".join(words[2:4]), words[4:]
        else:
            name, rest = "/".join(words[:2]), words[2:]
        repository = hub.repositories.get(name)
        if repository is None or (repository.private and not signed):
            return self.refuse(404, "RepoNotFound")
        if rest[:1] == ["preupload"]:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        if rest[:1] == ["commit"]:
            return self.commit(name, repository, body)
        revision = rest[1] if len(rest) > 1 else "main"
        commit, files = repository.at(revision)
        if files is None:
            return self.refuse(404, "RevisionNotFound")
        if rest[:1] == ["resolve"]:
            return self.resolve(commit, files, "/".join(rest[2:]))
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": path, "size": len(content), "oid": _blob_id(content)}
                for path, content in files.items()
            ]
            return self.answer(200, tree)
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": _blob_id(content)} for path, content in files.items()
        ]
        info = {"id": name, "modelId": name, "sha": commit, "private": repository.private, "siblings": siblings}
        return self.answer(200, info | {"tags": [], "downloads": 0, "likes": 0})

    def commit(self, name, repository, body):
        files = dict(repository.at("main")[1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
        made = repository.commit(files)
        url = f"http://{self.headers['Host']}/{name}/commit/{made}"
        self.answer(200, {"commitUrl": url, "commitOid": made, "pullRequestUrl": None})

    def resolve(self, commit, files, path):
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        content = files[path]
        headers = {"ETag": f'"{_blob_id(content)}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
        return self.answer(200, content, **headers)

    do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = handle_all


@contextmanager
def serving():
    """Yield a Hub and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub, server.daemon_threads = Hub(), True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
