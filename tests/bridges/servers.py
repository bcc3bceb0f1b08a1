"""A server on this machine that serves `CONTENT` and records what it was asked."""

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

CONTENT = hashlib.shake_256(b"weights").digest(600_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self):
        self.server.requests.append(self.path)
        answer = self.server.script.pop(0) if self.server.script else 200
        content = CONTENT if answer == 200 else answer
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", 0 if isinstance(content, int) else len(CONTENT))
        self.end_headers()
        self.wfile.write(b"" if isinstance(content, int) else content)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    """Gives the answers of its script, a status or a content each, and `CONTENT` after that."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.script = [], []
        self.url = f"http://127.0.0.1:{self.server_port}/a/weights.pth"


def running(server):
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
