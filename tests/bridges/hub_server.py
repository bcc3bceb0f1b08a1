"""A server on this machine that answers as the Hugging Face Hub does: repositories made, filled, listed and fetched.

Source of the paths and fields: huggingface_hub (`hf_api.py`, `_commit_api.py`, `lfs.py`, `file_download.py`).
"""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

REVISION = "0" * 39 + "1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 20

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer({"error": "Invalid username or password."}, status=401)
        lines = [json.loads(line) for line in content.splitlines() if line.startswith(b"{")]
        kinds = {"create": self.create, "preupload": self.sort, "lfs": self.expect, "commit": self.commit}
        kind = next((kind for kind in kinds if kind in self.path.split("/")), None)
        return self.answer(kinds[kind](lines) if kind else {"errors": [], "warnings": []})

    def create(self, lines):
        name = f"{lines[0].get('organization', 'me')}/{lines[0]['name']}"
        self.server.made[name] = lines[0]
        self.server.repos.setdefault(name, {})
        return {"url": f"{self.server.root}/{name}", "id": name}

    def sort(self, lines):
        """Which files are large."""
        paths = [file["path"] for file in lines[0]["files"]]
        modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
        return {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}

    def expect(self, lines):
        """Where large files go."""
        places = {
            o["oid"]: {"upload": {"href": f"{self.server.root}/large/{o['oid']}"}}
            for o in lines[0]["objects"]
        }
        return {
            "transfer": "basic",
            "objects": [o | {"actions": places[o["oid"]]} for o in lines[0]["objects"]],
        }

    def commit(self, lines):
        name = "/".join(self.path.split("/")[3:5])
        files = self.server.repos[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        return {"commitUrl": f"{self.server.root}/{name}/commit/{REVISION}", "commitOid": REVISION}

    def do_PUT(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.large[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, parts = self.server, self.path.partition("?")[0].split("/")
        hub.asked.append(self.path)
        if parts[1:3] == ["api", "models"]:
            files = hub.repos.get("/".join(parts[3:5]))
            if files is None:
                return self.answer({"error": "Repository not found"}, status=404, code="RepoNotFound")
            listed = [
                {"rfilename": name, "type": "file", "path": name, "size": len(c), "oid": "1" * 40}
                for name, c in files.items()
            ]
            about = {"id": "/".join(parts[3:5]), "sha": REVISION, "siblings": listed}
            return self.answer(listed if "tree" in parts else about)
        name = "/".join(parts[5:])
        content = hub.repos.get("/".join(parts[1:3]), {}).get(name)
        if content is None:
            return self.answer({"error": "Entry not found"}, status=404, code="EntryNotFound")
        digest = hashlib.sha256(content).hexdigest()
        etag = digest if name.endswith(".safetensors") else digest[:40]
        self.send_response(200)
        for header, value in {
            "X-Repo-Commit": REVISION,
            "ETag": f'"{etag}"',
            "Content-Length": str(len(content)),
        }.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def answer(self, value, *, status=200, code=None):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format, *args):
        pass


class Hub(ThreadingHTTPServer):
    """Repositories by name, each files by path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = f"http://127.0.0.1:{self.server_port}"
        self.repos, self.large, self.made, self.asked = {}, {}, {}, []

    def __enter__(self):
        self.thread = Thread(target=self.serve_forever)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()
        self.thread.join()

    def environment(self, cache, token="hf_right"):
        return {
            "HF_ENDPOINT": self.root,
            "HF_HOME": str(cache),
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }
