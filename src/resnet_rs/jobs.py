"""Run many independent pieces of work: in this process, in worker processes, or on a Ray cluster.

    for outcome in Local(2).run(work, {"first": payload, "second": payload}, stop=stop):
        print(outcome.key, outcome.error)

Work returns nothing: what it finds out it writes itself, so nothing is lost when whoever asked for it is gone. Work
that fails is an outcome with its error and leaves the others alone. A request to stop is passed on: what is under way
may save and leave, and nothing new is begun. A payload is text, JSON for example, so that no object has to travel.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from resnet_rs.processes import SIGNALS, Stop, end_with_parent, listening

Work = Callable[[str, "Share", Stop], None]
"""Takes a payload, its share of the machine, and where it is asked to leave. A function of a module, found by name."""

_SECONDS_BETWEEN_LOOKS = 0.2
_NUM_RAY_RETRIES = 3
_SECONDS_TO_LEAVE = 120.0
"""How long a cluster's work may save when it is asked to stop; then it is ended."""
_HAS_LEFT = "left before its end"
_LONGEST_ERROR = 2000
"""Characters; an answer must fit into a pipe that is read when its process has ended."""


class Left(Exception):
    """The work was asked to leave before its end; it can be continued."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a piece of work may use of the machine."""

    num_threads: int | None = None
    """Threads to compute with; None for as many as it likes."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a piece of work reserves of a cluster's node. Work of one machine has its share of what there is."""

    num_cores: int = 1
    num_gpus: int = 0


ONE_CORE = Needs()


class Outcome(NamedTuple):
    """A piece of work has ended."""

    key: str
    error: str | None
    """What went wrong, in one line; None if nothing did."""


class Runner(ABC):
    """Where work is done."""

    @abstractmethod
    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Needs = ONE_CORE
    ) -> Iterator[Outcome]:
        """Do `work` on every payload; yields each as it ends, in any order. Work that left is not among them."""


@dataclass(frozen=True)
class Here(Runner):
    """One after the other in this process."""

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Needs = ONE_CORE
    ) -> Iterator[Outcome]:
        for key, payload in payloads.items():
            if stop.is_requested:
                return
            try:
                work(payload, Share(), stop)
            except Left:
                return
            except Exception as error:
                yield Outcome(key, _said(error))
            else:
                yield Outcome(key, None)


@dataclass(frozen=True)
class Local(Runner):
    """In `num_workers` processes at once, each with its share of the processor cores, and new for every piece."""

    num_workers: int

    def __post_init__(self) -> None:
        if not 1 <= self.num_workers <= 1024:
            raise ValueError(
                f"local jobs must be 1 to 1024, got {self.num_workers}. Example: --jobs local:2."
            )

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Needs = ONE_CORE
    ) -> Iterator[Outcome]:
        share = Share(num_threads=max(1, num_cores() // self.num_workers))
        waiting = list(payloads.items())
        running: dict[str, _Child] = {}
        try:
            while running or (waiting and not stop.is_requested):
                while waiting and len(running) < self.num_workers and not stop.is_requested:
                    key, payload = waiting.pop(0)
                    running[key] = _Child.start(work, payload, share)
                if stop.is_requested:
                    for child in running.values():
                        child.ask_to_leave()
                wait([child.process.sentinel for child in running.values()], timeout=_SECONDS_BETWEEN_LOOKS)
                for key in [key for key, child in running.items() if not child.process.is_alive()]:
                    error, has_left = running.pop(key).end()
                    if not has_left:
                        yield Outcome(key, error)
        finally:
            for child in running.values():
                child.process.kill()
                child.end()


@dataclass(frozen=True)
class Cluster(Runner):
    """As tasks of a Ray cluster that all see the same files; a task whose node dies is done again elsewhere.

    Without an address it is the cluster this machine belongs to, or else a new one of this machine alone. Ray is an
    extra: `pip install resnet-rs[cluster]`.
    """

    address: str | None = None

    def run(
        self, work: Work, payloads: Mapping[str, str], *, stop: Stop, needs: Needs = ONE_CORE
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
        needs: Needs,
    ) -> Iterator[Outcome]:
        _refuse_unmet(ray, needs)
        share = Share(num_threads=needs.num_cores)
        task = ray.remote(num_cpus=needs.num_cores, num_gpus=needs.num_gpus, max_retries=_NUM_RAY_RETRIES)(
            _on_a_node
        )
        tasks = {task.remote(work, payload, share): key for key, payload in payloads.items()}
        try:
            while tasks and not stop.is_requested:
                done, _ = ray.wait(list(tasks), timeout=_SECONDS_BETWEEN_LOOKS)
                for ended in done:
                    key, error = tasks.pop(ended), _result(ray, ended)
                    if error == _HAS_LEFT:  # its node was asked to go; another one continues
                        tasks[task.remote(work, payloads[key], share)] = key
                    else:
                        yield Outcome(key, error)
        finally:
            _leave(ray, list(tasks))


def parse(text: str | None) -> Runner:
    """Where to work, as it is typed: nothing for here, `local:2`, `ray`, or `ray://HOST:PORT`."""
    if text is None:
        return Here()
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


def num_cores() -> int:
    """Processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


@dataclass
class _Child:
    """A piece of work in a process of its own."""

    process: BaseProcess
    answers: Connection
    is_asked: bool = False

    @classmethod
    def start(cls, work: Work, payload: str, share: Share) -> _Child:
        context = multiprocessing.get_context("spawn")
        answers, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_in_child, args=(theirs, work, payload, share))
        # What asks to stop may reach every process of a terminal or a job: no child dies of it before it can listen,
        # and of Ctrl-C it hears from its parent. The tracker, which would be started with the first child, lets
        # signals through again; so it is started before.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return cls(process, answers)

    def ask_to_leave(self) -> None:
        """Ask once: a second signal would end it without saving."""
        if not self.is_asked and self.process.is_alive():
            self.is_asked = True
            self.process.terminate()

    def end(self) -> tuple[str | None, bool]:
        """Its error, if any, and whether it left before its end."""
        self.process.join()
        answer = ""
        with self.answers, suppress(EOFError):  # it was killed before it could say anything
            answer = self.answers.recv_bytes().decode()
        if answer:
            kind, _, text = answer.partition(":")
            return (text or None), kind == "left"
        if self.is_asked:
            return None, True  # it was asked before it could listen
        return f"its process ended with exit code {self.process.exitcode} and said nothing", False


def _in_child(answers: Connection, work: Work, payload: str, share: Share) -> None:
    end_with_parent()
    with listening() as stop:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS} - {signal.SIGINT})
        try:
            work(payload, share, stop)
        except Left:
            answer = "left:"
        except Exception as error:
            answer = f"done:{_said(error)}"
        else:
            answer = "done:"
    answers.send_bytes(answer.encode("utf-8", "backslashreplace"))
    answers.close()


def _on_a_node(work: Work, payload: str, share: Share) -> str | None:
    """The work as a Ray task: its error, for a raised one would be taken for that of a node."""
    with listening() as stop:
        try:
            work(payload, share, stop)
        except Left:
            return _HAS_LEFT
        except Exception as error:
            return _said(error)
    return None


def _refuse_unmet(ray: Any, needs: Needs) -> None:  # noqa: ANN401 - types of Ray, which may not be installed
    """Refuse work that no node of the cluster has room for: Ray would wait for one without a word."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(
        node.get("CPU", 0) >= needs.num_cores and node.get("GPU", 0) >= needs.num_gpus for node in nodes
    ):
        has = ", ".join(f"{n.get('CPU', 0):g} cores and {n.get('GPU', 0):g} GPUs" for n in nodes) or "none"
        raise ValueError(
            f"a trial needs {needs.num_cores} cores and {needs.num_gpus} GPUs of one node; the cluster's nodes have: "
            f"{has}. Lower --workers, or choose another --device."
        )


def _leave(ray: Any, tasks: list[Any]) -> None:  # noqa: ANN401 - types of Ray, which may not be installed
    """Ask tasks to leave, which is a SIGINT to those under way, and end those that do not."""
    for force in (False, True):
        for task in tasks:
            ray.cancel(task, force=force)
        if tasks and not force:
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=_SECONDS_TO_LEAVE)


def _result(ray: Any, task: Any) -> str | None:  # noqa: ANN401 - types of Ray, which may not be installed
    try:
        return ray.get(task)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
        return f"its node was lost {_NUM_RAY_RETRIES + 1} times: {_said(error)}"
    except ray.exceptions.RayError as error:
        return f"Ray could not run it: {_said(error)}"


@contextmanager
def _kept_handlers() -> Generator[None]:
    """Put back, after this block, what SIGTERM and SIGINT did before it: Ray would end this process on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread has handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _said(error: BaseException) -> str:
    """The error in one line: its text alone where it was written for people, with its type where not."""
    text = " ".join(str(error).split())[:_LONGEST_ERROR]
    return text if isinstance(error, ValueError | OSError) and text else f"{type(error).__name__}: {text}"
