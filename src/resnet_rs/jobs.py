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
from importlib.util import find_spec
from multiprocessing.connection import wait
from typing import Any, NamedTuple

from resnet_rs.processes import SIGNALS, Child, Stop, listening, num_cores

Work = Callable[[str, "Share", Stop], None]
"""Takes a payload, its share of the machine, and the stop request. It must be importable by name."""

_POLL_SECONDS = 0.2
_NUM_RAY_RETRIES = 3
_SECONDS_TO_SAVE = 120.0
"""Seconds that work on a cluster has to save after a stop request; then it is killed."""
_INTERRUPTED = "interrupted"
_LONGEST_ERROR = 2000
"""Characters. An answer must fit into the buffer of a pipe, because it is read after the process has ended."""


class Interrupted(Exception):
    """The work obeyed a stop request before its end; it can be continued."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a piece of work may use of the machine."""

    num_threads: int | None = None
    """CPU threads; None for no limit."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a piece of work reserves on a node of a cluster. On one machine each piece has an equal share instead."""

    num_cores: int = 1
    num_gpus: int = 0


ONE_CORE = Resources()


class Outcome(NamedTuple):
    """The result of a piece of work."""

    key: str
    error: str | None
    """The error in one line; None after success."""


class Runner(ABC):
    """Runs pieces of work."""

    @abstractmethod
    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Resources = ONE_CORE
    ) -> Iterator[Outcome]:
        """Run `work` on every payload; yields outcomes in the order of their end. Interrupted work has none."""


@dataclass(frozen=True)
class InProcess(Runner):
    """Runs the pieces one after the other in this process."""

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Resources = ONE_CORE
    ) -> Iterator[Outcome]:
        for key, payload in payloads.items():
            if stop.is_requested:
                return
            try:
                work(payload, Share(), stop)
            except Interrupted:
                return
            except Exception as error:
                yield Outcome(key, _message(error))
            else:
                yield Outcome(key, None)


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
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Resources = ONE_CORE
    ) -> Iterator[Outcome]:
        share = Share(num_threads=max(1, num_cores() // self.num_workers))
        waiting = list(payloads.items())
        running: dict[str, _Running] = {}
        try:
            while running or (waiting and not stop.is_requested):
                while waiting and len(running) < self.num_workers and not stop.is_requested:
                    key, payload = waiting.pop(0)
                    running[key] = _Running(Child.start(_in_child, work, payload, share))
                if stop.is_requested:
                    for piece in running.values():
                        piece.ask_to_stop()
                wait([piece.child.process.sentinel for piece in running.values()], timeout=_POLL_SECONDS)
                for key in [key for key, piece in running.items() if not piece.child.process.is_alive()]:
                    error, is_interrupted = running.pop(key).end()
                    if not is_interrupted:
                        yield Outcome(key, error)
        finally:
            for piece in running.values():
                piece.child.process.kill()
                piece.end()


@dataclass(frozen=True)
class Cluster(Runner):
    """Runs the pieces as tasks of a Ray cluster with shared files. If a node dies, its task runs again elsewhere.

    Without an address it is the cluster of this machine, or else a new one of this machine alone. Ray is an extra:
    `pip install resnet-rs[cluster]`.
    """

    address: str | None = None

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Resources = ONE_CORE
    ) -> Iterator[Outcome]:
        import ray  # pyright: ignore[reportMissingImports]: an extra

        is_ours = not ray.is_initialized()
        if is_ours:
            with _kept_handlers():
                ray.init(address=self.address, log_to_driver=False)
        try:
            yield from self._run(ray, work, payloads, stop=stop, needs=needs)
        finally:
            if is_ours:
                ray.shutdown()

    def _run(
        self,
        ray: Any,  # noqa: ANN401 - a module that may not be installed
        work: Work,
        payloads: Mapping[str, str],
        *,
        stop: Stop,
        needs: Resources,
    ) -> Iterator[Outcome]:
        _refuse_unmet(ray, needs)
        share = Share(num_threads=needs.num_cores)
        task = ray.remote(num_cpus=needs.num_cores, num_gpus=needs.num_gpus, max_retries=_NUM_RAY_RETRIES)(
            _on_a_node
        )
        tasks = {task.remote(work, payload, share): key for key, payload in payloads.items()}
        try:
            while tasks and not stop.is_requested:
                done, _ = ray.wait(list(tasks), timeout=_POLL_SECONDS)
                for ended in done:
                    key, error = tasks.pop(ended), _result(ray, ended)
                    if error == _INTERRUPTED:  # its node has to stop; another node continues
                        tasks[task.remote(work, payloads[key], share)] = key
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
        if find_spec("ray") is None:
            raise ValueError(
                "`--jobs ray` needs Ray, which is not installed. Install it with `pip install resnet-rs[cluster]`, "
                "or use `--jobs local:N`."
            )
        return Cluster(None if text == "ray" else text)
    raise ValueError(f"jobs must be local:N, ray or ray://HOST:PORT, got {text!r}. Example: --jobs local:2.")


@dataclass
class _Running:
    """A piece of work in a process of its own."""

    child: Child
    is_asked: bool = False

    def ask_to_stop(self) -> None:
        """Send SIGTERM once, since a second one would end the work before it can save."""
        if not self.is_asked and self.child.process.is_alive():
            self.is_asked = True
            self.child.process.terminate()

    def end(self) -> tuple[str | None, bool]:
        """Its error, if any, and whether it was interrupted."""
        answer = self.child.end()
        if isinstance(answer, bytes):
            kind, _, text = answer.decode().partition(":")
            return (text or None), kind == "interrupted"
        if self.is_asked:
            return None, True  # the signal came before the process could handle it
        return f"its process ended with exit code {answer} and without a message", False


def _in_child(work: Work, payload: str, share: Share) -> bytes:
    with listening() as stop:
        # Ctrl-C stays blocked: it also reaches the parent, which passes it on.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS} - {signal.SIGINT})
        try:
            work(payload, share, stop)
        except Interrupted:
            return b"interrupted:"
        except Exception as error:
            return f"done:{_message(error)}".encode("utf-8", "backslashreplace")
    return b"done:"


def _on_a_node(work: Work, payload: str, share: Share) -> str | None:
    """Run the work as a Ray task; its error as text, since Ray would take a raised one for a failure of the node."""
    with listening() as stop:
        try:
            work(payload, share, stop)
        except Interrupted:
            return _INTERRUPTED
        except Exception as error:
            return _message(error)
    return None


def _refuse_unmet(ray: Any, needs: Resources) -> None:  # noqa: ANN401 - types of Ray, which may not be installed
    """Raise `ValueError` for work that fits on no node of the cluster; Ray would wait for such a node silently."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(
        node.get("CPU", 0) >= needs.num_cores and node.get("GPU", 0) >= needs.num_gpus for node in nodes
    ):
        has = ", ".join(f"{n.get('CPU', 0):g} cores and {n.get('GPU', 0):g} GPUs" for n in nodes) or "none"
        raise ValueError(
            f"a trial needs {needs.num_cores} cores and {needs.num_gpus} GPUs on one node; the cluster's nodes have: "
            f"{has}. Lower --workers, or choose another --device."
        )


def _stop_tasks(ray: Any, tasks: list[Any]) -> None:  # noqa: ANN401 - types of Ray, which may not be installed
    """Ask tasks to stop, which sends SIGINT to the running ones, and kill those that still run after a while."""
    for force in (False, True):
        for task in tasks:
            ray.cancel(task, force=force)
        if tasks and not force:
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=_SECONDS_TO_SAVE)


def _result(ray: Any, task: Any) -> str | None:  # noqa: ANN401 - types of Ray, which may not be installed
    try:
        return ray.get(task)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        return f"its node failed {_NUM_RAY_RETRIES + 1} times: {_message(error)}"
    except ray.exceptions.RayError as error:
        return f"Ray could not run it: {_message(error)}"


@contextmanager
def _kept_handlers() -> Generator[None]:
    """Restore the handlers of SIGTERM and SIGINT after this block. Ray replaces them with ones that end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _message(error: BaseException) -> str:
    """The error in one line. `ValueError` and `OSError` have messages for users; others also need their type."""
    text = " ".join(str(error).split())[:_LONGEST_ERROR]
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"
