"""Run many independent pieces of work: in this process, in several processes, or on a Ray cluster.

    for outcome in Local(2).run(work, {"first": payload, "second": payload}, stop=stop):
        print(outcome.key, outcome.error)

Work returns nothing and writes its results to files, so they are not lost if the caller ends. An error in one piece
is its outcome and does not affect the others. A stop request is passed on: running work may save and stop, and nothing
new starts. A payload is text, such as JSON, so that no object has to be pickled.
"""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from resnet_rs.processes import Child, Interrupted, Stop, listening, num_cores, unblock_signals
from resnet_rs.text import require

Work = Callable[[str, int | None, Stop], None]
"""Takes a payload, the number of CPU threads it may use (None for no limit), and the stop request. It must be
importable by name."""

_POLL_SECONDS = 0.2
_NUM_RAY_RETRIES = 3
_SECONDS_TO_SAVE = 120.0
"""Seconds that work on a cluster has to save after a stop request; then it is killed."""
_INTERRUPTED = "\0"
"""Stands for the error of interrupted work."""
_LONGEST_ERROR = 2000
"""Characters. An answer must fit into the buffer of a pipe, because it is read after the process has ended."""


class Outcome(NamedTuple):
    """The result of a piece of work."""

    key: str
    error: str | None
    """The error in one line; None after success."""


class Runner(ABC):
    """Runs pieces of work."""

    @abstractmethod
    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, cores: int = 1, gpus: int = 0
    ) -> Iterator[Outcome]:
        """Run `work` on every payload; yields outcomes in the order of their end. Interrupted work has none.

        On a cluster each piece reserves `cores` cores and `gpus` GPUs; on one machine it has an equal share.
        """


@dataclass(frozen=True)
class InProcess(Runner):
    """Runs the pieces one after the other in this process."""

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, cores: int = 1, gpus: int = 0
    ) -> Iterator[Outcome]:
        for key, payload in payloads.items():
            if stop.is_requested:
                return
            error = _attempt(work, payload, None, stop)
            if error == _INTERRUPTED:
                return
            yield Outcome(key, error)


@dataclass(frozen=True)
class Local(Runner):
    """Runs `num_workers` pieces at once, each in a new process with an equal share of the CPU cores."""

    num_workers: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_workers <= 1024:
            raise ValueError(
                f"local jobs must be 1 to 1024, got {self.num_workers}. Example: --jobs local:2."
            )

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, cores: int = 1, gpus: int = 0
    ) -> Iterator[Outcome]:
        num_threads = max(1, num_cores() // self.num_workers)
        waiting = list(payloads.items())
        running: dict[str, Child] = {}
        try:
            while running or (waiting and not stop.is_requested):
                while waiting and len(running) < self.num_workers and not stop.is_requested:
                    key, payload = waiting.pop(0)
                    running[key] = Child.start(_in_child, work, payload, num_threads)
                if stop.is_requested:
                    for child in running.values():
                        child.ask_to_stop()
                wait([child.process.sentinel for child in running.values()], timeout=_POLL_SECONDS)
                for key in [key for key, child in running.items() if not child.process.is_alive()]:
                    error = _error_of(running.pop(key))
                    if error != _INTERRUPTED:
                        yield Outcome(key, error)
        finally:
            for child in running.values():
                child.kill()


@dataclass(frozen=True)
class Cluster(Runner):
    """Runs the pieces as tasks of a Ray cluster with shared files. If a node dies, its task runs again elsewhere.

    Without an address it is the cluster of this machine, or else a new one of this machine alone. Ray is an extra:
    `pip install resnet-rs[cluster]`.
    """

    address: str | None = None

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, cores: int = 1, gpus: int = 0
    ) -> Iterator[Outcome]:
        with _connected(self.address) as ray:
            _refuse_unmet(ray, cores, gpus)
            options = {"num_cpus": cores, "num_gpus": gpus, "max_retries": _NUM_RAY_RETRIES}
            task = ray.remote(**options)(_on_a_node)
            tasks = {task.remote(work, payload, cores): key for key, payload in payloads.items()}
            try:
                while tasks and not stop.is_requested:
                    done, _ = ray.wait(list(tasks), timeout=_POLL_SECONDS)
                    for ended in done:
                        key, error = tasks.pop(ended), _result(ray, ended)
                        if error == _INTERRUPTED:  # its node has to stop; another node continues
                            tasks[task.remote(work, payloads[key], cores)] = key
                        else:
                            yield Outcome(key, error)
            finally:
                _stop_tasks(ray, list(tasks))


def parse(text: str | None) -> Runner:
    """The runner for the value of `--jobs`: None, `local:2`, `ray`, or `ray://HOST:PORT`."""
    if text is None:
        return InProcess()
    if text.startswith("local:") and text.removeprefix("local:").isdecimal():
        return Local(int(text.removeprefix("local:")))
    if text == "ray" or (text.startswith("ray://") and len(text) > len("ray://")):
        require("ray", extra="cluster", what="--jobs ray")
        return Cluster(None if text == "ray" else text)
    raise ValueError(f"jobs must be local:N, ray or ray://HOST:PORT, got {text!r}. Example: --jobs local:2.")


def _attempt(work: Work, payload: str, num_threads: int | None, stop: Stop) -> str | None:
    """Do the work. Returns its error in one line, None after success, or `_INTERRUPTED`."""
    try:
        work(payload, num_threads, stop)
    except Interrupted:
        return _INTERRUPTED
    except Exception as error:
        return _message(error)
    return None


def _in_child(work: Work, payload: str, num_threads: int) -> bytes:
    with listening() as stop:
        unblock_signals()
        return (_attempt(work, payload, num_threads, stop) or "").encode("utf-8", "backslashreplace")


def _error_of(child: Child) -> str | None:
    """What `_attempt` returned in a child that has ended."""
    answer = child.end()
    if isinstance(answer, bytes):
        return answer.decode() or None
    if child.is_asked_to_stop:  # the signal came before the process could handle it
        return _INTERRUPTED
    return f"its process ended with exit code {answer} and without a message"


@contextmanager
def _connected(address: str | None) -> Generator[Any]:
    """Ray, connected to a cluster within the block, or for longer if it was before."""
    import ray  # pyright: ignore[reportMissingImports]: an extra

    if ray.is_initialized():
        yield ray
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        ray.init(address=address, log_to_driver=False)
    finally:
        # Ray's own handlers end the process. Only the main thread can set handlers.
        for number, handler in before.items() if _is_main_thread() else ():
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _on_a_node(work: Work, payload: str, num_threads: int) -> str | None:
    """Do the work as a Ray task. Its error is returned, since Ray takes a raised one for a failure of the node."""
    # Ray cancels a task by SIGINT, which a cluster started in the background, as by `nohup`, would ignore.
    if _is_main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with listening() as stop:
        return _attempt(work, payload, num_threads, stop)


def _refuse_unmet(ray: Any, cores: int, gpus: int) -> None:  # noqa: ANN401 - types of Ray
    """Raise `ValueError` for work that fits on no node of the cluster; Ray would wait for such a node silently."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    sizes = [(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
    if not any(has_cores >= cores and has_gpus >= gpus for has_cores, has_gpus in sizes):
        has = ", ".join(f"{n:g} cores and {m:g} GPUs" for n, m in sizes) or "none"
        raise ValueError(
            f"a trial needs {cores} cores and {gpus} GPUs on one node; the cluster's nodes have: "
            f"{has}. Lower --workers, or choose another --device."
        )


def _stop_tasks(ray: Any, tasks: list[Any]) -> None:  # noqa: ANN401 - types of Ray
    """Ask tasks to stop, which sends SIGINT to the running ones, and kill those that still run after a while."""
    for force in (False, True):
        for task in tasks:
            ray.cancel(task, force=force)
        if tasks and not force:
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=_SECONDS_TO_SAVE)


def _result(ray: Any, task: Any) -> str | None:  # noqa: ANN401 - types of Ray
    try:
        return ray.get(task)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        return f"its node failed {_NUM_RAY_RETRIES + 1} times: {_message(error)}"
    except ray.exceptions.RayError as error:
        return f"Ray could not run it: {_message(error)}"


def _message(error: BaseException) -> str:
    """The error in one line. `ValueError` and `OSError` have messages for users; others also need their type."""
    text = " ".join(str(error).split())[:_LONGEST_ERROR]
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"
