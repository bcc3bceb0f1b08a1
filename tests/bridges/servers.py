"""Servers on this machine that serve `CONTENT`, well or badly, and remember what they were asked."""

import hashlib
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

from resnet_rs import storage

CONTENT = hashlib.shake_256(b"weights").digest(300_000)
OTHER = hashlib.shake_256(b"other").digest(300_000)
SHA256, MD5 = hashlib.sha256(CONTENT).hexdigest(), hashlib.md5(CONTENT).hexdigest()
CUT_AT = 100_000
STORED = ["weights.pth", "weights.pth.json"]
"""What is in the folder of a file that has arrived."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10

    def do_GET(self):
        self.close_connection = True
        self.server.requests.append((self.path, self.headers["Range"], self.headers["If-Range"]))
        script = self.server.script
        (script.pop(0) if script else whole)(self)

    def begin(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    """Plays its script, one line per request, and behaves well after that."""

    daemon_threads = True

    def __init__(self, context=None):
        super().__init__(("127.0.0.1", 0), Handler)
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.requests, self.script, self.released = [], [], Event()
        scheme = "https" if context else "http"
        self.root = f"{scheme}://127.0.0.1:{self.server_port}"
        self.url = f"{self.root}/a/weights.pth"

    def handle_error(self, request, client_address):
        pass  # clients that go are what is tested

    @property
    def ranges(self):
        return [asked for _, asked, _ in self.requests]


def whole(handler, content=CONTENT, etag='"1"', stop=None, headers=None):
    """What a good server does: the rest, if it is of the version that the client has; `stop` cuts it after that many
    bytes of the file."""
    begin, status, sent = 0, 200, {"Content-Length": len(content)} | ({"ETag": etag} if etag else {})
    asked, version = handler.headers["Range"], handler.headers["If-Range"]
    if asked and version == etag:
        begin, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        sent |= {"Content-Length": len(content) - begin}
        sent |= {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
    handler.begin(status, sent | (headers or {}))
    handler.wfile.write(content[begin:stop])


cut = partial(whole, stop=CUT_AT)


def answers(status, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.begin(status, {"Content-Length": 0} | headers)


def chunked(handler, content=CONTENT, is_ended=True):
    handler.begin(200, {"Transfer-Encoding": "chunked", "ETag": '"1"'})
    for begin in range(0, len(content), 50_000):
        piece = content[begin : begin + 50_000]
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    if is_ended:
        handler.wfile.write(b"0\r\n\r\n")


def until_closed(handler, content=CONTENT):
    handler.begin(200, {"ETag": '"1"'})
    handler.wfile.write(content)


def hangs(handler):
    handler.server.released.wait(5)


def hangs_in_the_middle(handler):
    cut(handler)
    handler.wfile.flush()
    hangs(handler)


def slow(handler):
    handler.begin(200, {"Content-Length": len(CONTENT), "ETag": '"1"'})
    for begin in range(0, len(CONTENT), 50_000):
        time.sleep(0.1)
        handler.wfile.write(CONTENT[begin : begin + 50_000])


def running(server):
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def part(path):
    return path.with_name(f"{path.name}.partial")


def names(path):
    return sorted(file.name for file in path.parent.iterdir() if file.name != storage.LOCK)
