"""Commands in processes of their own that need not import everything anew: each is forked from one that has.

    Warm().run(["resnet-rs", "list"], cwd=folder)     returncode, stdout and stderr, as of `subprocess.run`

The process imports torch and the package once and computes nothing, so that a fork of it is as good as a new process.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SERVER = [sys.executable, __file__]
MODULES = (
    "resnet_rs.cli",
    "resnet_rs.verbs",
    "resnet_rs.cli.progress",
    "resnet_rs.studies.summary",
    "resnet_rs.studies.catalog",
)


class Warm:
    """The process from which commands are forked, one at a time."""

    def __init__(self):
        self._server = subprocess.Popen(SERVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, words, *, cwd=None, env=None):
        """Run `resnet-rs ...` or `python -c CODE`, and wait for its end."""
        with tempfile.TemporaryDirectory() as scratch:
            paths = {name: str(Path(scratch, name)) for name in ("stdout", "stderr")}
            order = {
                "words": list(map(str, words)),
                "cwd": str(cwd or os.getcwd()),
                "env": env or {},
                **paths,
            }
            self._server.stdin.write(json.dumps(order) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            said = [Path(path).read_text(errors="replace") for path in paths.values()]
        return subprocess.CompletedProcess(words, code, *said)

    def close(self):
        """End it."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@cache
def shared():
    """The one process of this test process."""
    server = Warm()
    atexit.register(server.close)
    return server


def resnet_rs(*arguments, cwd=None):
    """Run a command of the package in a process of its own."""
    return shared().run(["resnet-rs", *arguments], cwd=cwd)


def serve():
    """Fork a process for every order that comes in."""
    import importlib

    for name in MODULES:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os._exit(obey(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def obey(order):
    """Be the process of one command; its exit code."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    os.chdir(order["cwd"])
    os.environ.update(order["env"])
    program, *words = order["words"]
    sys.path[0] = ""
    code = 0
    try:
        import torch

        torch.set_num_threads(1)
        if program == "python":
            exec(compile(words[1], "<block>", "exec"), {"__name__": "__main__"})
        else:
            from resnet_rs.cli import main

            sys.argv = ["resnet-rs", *words]
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
