"""Public files by their URL, such as released weights -> a verified file in the cache, whole or not at all.

Where a file belongs follows from its URL alone (`cached_path`), so that it can be put there by hand, too. Proxies are
those of the environment (`HTTPS_PROXY`, `NO_PROXY`), and so are certificates (`SSL_CERT_FILE`).

    fetch        what the cache has, or the network: verified
    _complete    tries, and waits between them
    _receive     one try: a request, its redirects, its body

Source: ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, responses
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request, UnknownHandler

from resnet_rs import storage
from resnet_rs.bridges.partial import Partial, examined, fault, turn

MOST_BYTES = 8 << 30
"""Of a file whose size is not given; a server that sends more is cut off."""
OFFLINE = ("RESNET_RS_OFFLINE", "HF_HUB_OFFLINE")
"""Variables of the environment that keep us from the network."""

Progress = Callable[[int, int | None], None]
"""Is told how many bytes have arrived, and of how many, if the server says so."""

_HASHES = {"sha256": 64, "md5": 32}
"""Kinds, and how many digits each has."""
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_PASSING = (408, 425, 429)
"""Answers that may be another in a while; so may all from 500 on."""
_CHUNK = 1 << 18


class NotFetched(OSError):
    """A file that could not be fetched; the message says which, why, and where to put it by hand."""


@dataclass(frozen=True)
class RemoteFile:
    """A public file, and what is known of its content."""

    url: str
    sha256: str | None = None
    md5: str | None = None
    """Finds damage, but no file that was made to deceive."""
    size: int | None = None
    """In bytes."""

    def __post_init__(self) -> None:
        _split(self.url)
        for kind, num_digits in _HASHES.items():
            value = getattr(self, kind)
            if value is not None and not re.fullmatch(f"[0-9a-fA-F]{{{num_digits}}}", value):
                raise ValueError(f"{kind} must be {num_digits} hexadecimal digits, got {value!r}.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be a number of bytes, got {self.size}.")

    def expected(self) -> dict[str, Any]:
        """What is known of the content, by kind."""
        hashes = {kind: value.lower() for kind in _HASHES if (value := getattr(self, kind))}
        return hashes if self.size is None else {"size": self.size, **hashes}


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often a server is asked, and how long it is waited for."""

    tries: int = 4
    """Each continues what arrived before."""
    timeout_seconds: float = 20.0
    """Without a sign of the server."""
    first_wait_seconds: float = 1.0
    """Before the second try. It doubles from try to try, and chance makes it up to twice as long."""
    most_wait_seconds: float = 60.0
    """Even if the server asks for more."""
    slow_seconds: float = 60.0
    """In which at least `least_bytes` must arrive: a server that trickles would hold us for days."""
    least_bytes: int = 60_000
    turn_seconds: float = 300.0
    """For another process that fetches the same file, but does not get on."""
    sleep: Callable[[float], None] = time.sleep


PATIENCE = Patience()


@dataclass(frozen=True)
class _Order:
    """What to fetch, where to, and how."""

    remote: RemoteFile
    path: Path
    progress: Progress | None
    at_most: int
    patience: Patience

    def refusal(self, why: object) -> NotFetched:
        """The error that says why, and what to do instead."""
        by_hand = f"Download it elsewhere and put it at {self.path}"
        return NotFetched(f"cannot fetch {self.remote.url}: {why}. {by_hand}.")


class _Failed(Exception):
    """A try that may go better the next time; `wait` is in how many seconds, if that is known."""

    def __init__(self, why: str, *, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


def fetch(
    remote: RemoteFile,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
    at_most: int = MOST_BYTES,
    patience: Patience = PATIENCE,
) -> Path:
    """The path of `remote` in the cache, verified; if it is not there yet, it is fetched.

    Raises `NotFetched`; `partial.NotStored` if the disk is at fault; `storage.InUse` if another process that fetches
    the same file does not get on. What has arrived is kept, after Ctrl-C as well, and continued by the next call.
    """
    path, expected = cached_path(remote, cache=cache), remote.expected()
    order = _Order(remote, path, progress, at_most, patience)
    if (wrong := fault(path, expected)) is None:
        return path
    for name in OFFLINE:
        if os.environ.get(name, "").lower() in ("1", "true", "yes", "on"):
            there = f", and the file in the cache is another: {wrong}" if path.exists() else ""
            raise order.refusal(f"{name} is set{there}")
    with turn(path, seconds=patience.turn_seconds):
        if fault(path, expected) is not None:
            _obtain(order)
    return path


def cached_path(remote: RemoteFile, *, cache: Path | None = None) -> Path:
    """Where `remote` belongs in the folder `cache`, or in that of the user, whether it is there or not."""
    parts = urlsplit(remote.url)
    key = hashlib.sha256(remote.url.partition("#")[0].encode()).hexdigest()[:12]
    texts = parts.hostname or "", unquote(parts.path.rpartition("/")[2])
    host, name = (re.sub(r"[^A-Za-z0-9._-]", "_", text)[-100:].strip(".") for text in texts)
    if name.lower() in ("", storage.LOCK):
        name += "_"
    return (cache or cache_folder()).absolute() / f"{host}-{key}" / name


def cache_folder() -> Path:
    """`RESNET_RS_CACHE`, else `resnet-rs` in `XDG_CACHE_HOME` or in `~/.cache`."""
    try:
        if own := os.environ.get("RESNET_RS_CACHE"):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "resnet-rs"
    except RuntimeError:
        raise ValueError("there is no home folder for a cache. Set RESNET_RS_CACHE to a folder.") from None


def _obtain(order: _Order) -> None:
    """Fetch and verify; what turns out to be another file is fetched once more from the beginning."""
    partial = Partial(order.path)
    wrong: str | None = None
    for _ in range(2):
        _complete(order, partial)
        found, wrong = examined(partial.path, order.remote.expected())
        if wrong is None:
            partial.finish(found)
            return
        partial.drop()
    raise NotFetched(
        f"cannot fetch {order.remote.url}: the server sends another file, twice: {wrong}. "
        "Do not use that file; ask those who publish it."
    )


def _complete(order: _Order, partial: Partial) -> None:
    """Ask until nothing is missing."""
    patience = order.patience
    for number in range(patience.tries):
        if partial.is_whole():
            return
        try:
            _receive(order, partial)
            return
        except _Failed as failure:
            if number + 1 == patience.tries:
                kept = "; what has arrived is continued the next time" if partial.is_continuable() else ""
                raise order.refusal(f"{failure} ({patience.tries} tries){kept}") from None
            # The fraction of the second is chance enough to keep many machines from asking in step.
            wait = patience.first_wait_seconds * 2**number * (1 + time.time() % 1)
            patience.sleep(min(wait if failure.wait is None else failure.wait, patience.most_wait_seconds))


def _receive(order: _Order, partial: Partial) -> None:
    """Ask once, for the rest alone if some has arrived; raises `_Failed` if something is missing or too much."""
    with _answer(order, partial) as response:
        begin, total = _announced(order, partial, response)
        most = _bound(order, partial, total)
        validator = partial.validator if begin else _validator(response.headers)
        refuse_trickle = _Pace(order.patience, partial)
        with partial.opened(begin=begin, total=total, validator=validator):
            # One byte more than allowed tells that there are more.
            while partial.num_bytes <= most and (
                chunk := _read(order, response, most + 1 - partial.num_bytes)
            ):
                partial.write(chunk)
                refuse_trickle()
                if order.progress:
                    order.progress(partial.num_bytes, total)
            if total is None:
                partial.total = partial.num_bytes
    if partial.num_bytes > most:
        partial.drop()
        if total is None:
            raise order.refusal(f"the server sends more than {most:,} bytes, and was cut off")
        raise _Failed(f"the server sends more than the {most:,} bytes it announces")
    if not partial.is_whole():
        raise _Failed(f"the connection ended after {partial.num_bytes:,} of {total:,} bytes")


class _Pace:
    """Called after every piece; raises `_Failed` if too little has arrived for too long."""

    def __init__(self, patience: Patience, partial: Partial) -> None:
        self.patience, self.partial = patience, partial
        self.since, self.before = time.monotonic(), partial.num_bytes

    def __call__(self) -> None:
        if time.monotonic() - self.since < self.patience.slow_seconds:
            return
        if self.partial.num_bytes - self.before < self.patience.least_bytes:
            raise _Failed("the server sends next to nothing")
        self.since, self.before = time.monotonic(), self.partial.num_bytes


def _bound(order: _Order, partial: Partial, total: int | None) -> int:
    """How many bytes may arrive in all, of a file that the server announces as `total`."""
    size = order.remote.size
    if total is None:
        return order.at_most if size is None else size
    if total == size or (size is None and total <= order.at_most):
        return total
    partial.drop()
    expected = f"at most {order.at_most:,}" if size is None else f"{size:,}"
    raise order.refusal(f"the server announces {total:,} bytes, expected {expected}")


def _answer(order: _Order, partial: Partial) -> HTTPResponse:
    """The answer of the server, or of that to which it redirects."""
    headers = {"User-Agent": "resnet-rs", "Accept-Encoding": "identity"}
    if partial.is_continuable():
        headers |= {"Range": f"bytes={partial.num_bytes}-", "If-Range": str(partial.validator)}
    # No handlers of files, FTP and data; none of redirects and errors, which would read bodies of any length.
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler(), UnknownHandler()):
        opener.add_handler(handler)
    url = order.remote.url
    for _ in range(_MAX_REDIRECTS + 1):
        with _network(order):
            request = Request(url, headers=headers)
            response: HTTPResponse = opener.open(request, timeout=order.patience.timeout_seconds)
        if response.status not in _REDIRECTS:
            return response
        response.close()
        try:
            url = _redirected(url, response.headers.get("Location", ""))
        except ValueError as error:
            raise order.refusal(f"it redirects to where we do not follow: {error}".rstrip(".")) from None
    raise order.refusal(f"it redirects more than {_MAX_REDIRECTS} times")


def _announced(order: _Order, partial: Partial, response: HTTPResponse) -> tuple[int, int | None]:
    """Where in the file the body begins, and how long the file is; None if that is only known at the end."""
    status, headers = response.status, response.headers
    if status == 200:
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise order.refusal("the server sends it compressed, which was not asked for")
        if response.length is None and not response.chunked:
            if not order.remote.expected():
                raise order.refusal("neither you nor the server tell its size, so its end could be missing")
            return 0, order.remote.size
        return 0, response.length
    if status in (206, 416) and partial.is_continuable():
        span = re.fullmatch(r"bytes ([0-9]{1,18})-[0-9]+/([0-9]{1,18})", headers.get("Content-Range", ""))
        is_same = _validator(headers) in (None, partial.validator)
        if status == 206 and is_same and span and int(span[1]) == partial.num_bytes:
            return partial.num_bytes, int(span[2])
        partial.drop()
        raise _Failed("the server does not continue what has arrived", wait=0.0)
    said = f"the server answers {status} {responses.get(status, '')}".rstrip()
    if status in _PASSING or status >= 500:
        raise _Failed(said, wait=_retry_after(headers))
    raise order.refusal(said)


def _read(order: _Order, response: HTTPResponse, num_bytes: int) -> bytes:
    """The next bytes of a body as soon as there are any, `num_bytes` at most; none at its end."""
    with _network(order):
        return response.read1(min(num_bytes, _CHUNK))


@contextmanager
def _network(order: _Order) -> Generator[None]:
    """What fails within the block may go better the next time, unless it is a certificate."""
    try:
        yield
    except (OSError, HTTPException, UnicodeError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        said = getattr(reason, "strerror", None) or str(reason)
        if isinstance(error, HTTPException):  # its text is what a server sent
            said = f"the answer is cut or no HTTP ({type(error).__name__})"
        said = "".join(letter if letter.isprintable() else "?" for letter in said[:200])
        if isinstance(reason, ssl.SSLCertVerificationError):
            cure = "If your network has certificates of its own, set SSL_CERT_FILE to them"
            raise order.refusal(f"{said}. {cure}") from None
        raise _Failed(f"the connection failed: {said}") from None


def _redirected(url: str, location: str) -> str:
    """The address to which `url` redirects; raises `ValueError` for one that is no longer safe."""
    target = urljoin(url, quote(location, safe="%/:=&?~#+!$,;'@()*[]", encoding="latin-1"))
    if _split(target).scheme == "http" and urlsplit(url).scheme == "https":
        raise ValueError(f"from https down to {target.partition('?')[0]!r}")
    return target


def _split(url: str) -> SplitResult:
    """The parts of an address that we fetch from; raises `ValueError` for any other."""
    shown = repr(re.sub("//[^/]*@", "//", url.partition("?")[0])[:200])
    try:
        parts = urlsplit(url)
        is_whole = parts.hostname is not None and parts.port != 0  # a port is checked when it is read
    except ValueError:
        raise ValueError(f"{shown} is no address.") from None
    if "@" in parts.netloc:
        raise ValueError(
            f"the address of a file at {parts.hostname} has a user name; public files need none."
        )
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in ("http", "https") or not is_whole or not is_plain:
        raise ValueError(f"{shown} is no http:// or https:// address in plain ASCII.")
    return parts


def _validator(headers: Message) -> str | None:
    """By what the server knows this version of the file again, byte by byte, which a weak ETag does not promise."""
    for name in ("ETag", "Last-Modified"):
        value = headers.get(name, "")
        if value and not value.startswith("W/") and value.isascii() and value.isprintable():
            return value
    return None


def _retry_after(headers: Message) -> float | None:
    """For how many seconds the server asks."""
    value = headers.get("Retry-After", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
