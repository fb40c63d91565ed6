"""Images that rows of a listing name, fetched ahead of use."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from lit_precompute.records import DamagedInput, Record
from lit_precompute.sources import web
from lit_precompute.sources.image_paths import WEB, Places, RefusedPathError
from lit_precompute.sources.opening import FINAL, with_retries
from schemas.storage import StorageOptions, filesystem

THREADS = 16  # images asked for at once: on an object store the wait for one is longer than its bytes
AHEAD = 32  # images held before they are used, at most

Problem = tuple[str, str, str]  # stage, reason, detail


@dataclass(frozen=True, slots=True)
class Wanted:
    """A record whose image lies elsewhere.

    Attributes:
        record: without image; with a problem when nothing is to be fetched.
        name: where the row says the image is.
        places: what its listing may name.
    """

    record: Record
    name: str
    places: Places


def fetch_ahead(
    wanted: Iterable[Wanted], options: StorageOptions | None = None, max_bytes: int = 64 << 20
) -> Iterator[Record]:
    """The records with their images, in order. An image that can not be had costs its own record.

    Raises:
        DamagedInput, OSError: as `wanted` raises them, after every record that came before.
    """
    window: deque[Future[Record]] = deque()
    pool = ThreadPoolExecutor(THREADS, "fetch")
    rows = iter(wanted)
    trouble: Exception | None = None
    try:
        while trouble is None:
            try:
                one = next(rows, None)
            except (DamagedInput, OSError) as error:
                trouble, one = error, None
            if one is None:
                break
            window.append(pool.submit(_fetch_record, one, options, max_bytes))
            if len(window) >= AHEAD:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
    if trouble is not None:
        raise trouble


def _fetch_record(wanted: Wanted, options: StorageOptions | None, max_bytes: int) -> Record:
    if wanted.record.problem is not None:
        return wanted.record
    image, problem = fetch(wanted.name, wanted.places, options, max_bytes)
    return replace(wanted.record, image=image, problem=problem)


def fetch(
    name: str, places: Places, options: StorageOptions | None, max_bytes: int
) -> tuple[bytes | None, Problem | None]:
    """The bytes a name leads to, or why there are none, in words that hold no part of the name."""
    try:
        address = places.address(name)
        data = with_retries(
            lambda: _read(address, places, options, max_bytes),
            "image",
            (*FINAL, RefusedPathError, _FinalError, TimeoutError, ValueError, ImportError),
            attempts=4,  # one image is worth less waiting than a part
        )
    except RefusedPathError as error:
        return None, ("read", "refused", str(error))
    except (OSError, ValueError, ImportError, _FinalError) as error:
        return None, ("read", "io", _detail(error))
    if len(data) > max_bytes:
        return None, ("read", "too_many_bytes", f"more than {max_bytes:,} bytes, the limit")
    return data, None


def demand_openable(file: str, names: Iterable[str], places: Places, options: StorageOptions | None) -> None:
    """Raises ValueError when the image root can not be opened, or rows may name none of `names`.

    Args:
        file: bare name of the listing, for the message.
    """
    if places.own not in ("file", *WEB):
        try:
            filesystem(places.root, options)
        except (ValueError, ImportError) as error:
            raise ValueError(
                f"--image-root: must be on storage that can be opened, found: {error}."
            ) from None
    refused = []
    for name in names:
        try:
            places.address(name)
            return
        except RefusedPathError as error:
            refused.append(str(error))
    if refused:
        raise ValueError(
            f"{file}: rows must name images that may be opened, none of the first {len(refused)} does: {refused[0]}. "
            "Give --image-root or --allow-protocols."
        )


class _FinalError(Exception):
    """What asking again can not mend."""


def _read(address: str, places: Places, options: StorageOptions | None, max_bytes: int) -> bytes:
    protocol, mark, _ = address.partition("://")
    if not mark or address.startswith("/"):
        return _read_local(address, max_bytes)
    if protocol in WEB:
        try:
            return _read_web(address, places, max_bytes)
        except web.WebError as error:
            if error.is_final:
                raise _FinalError(str(error)) from None
            raise
    fs, path = filesystem(address, options)
    with fs.open(path, "rb") as file:
        return bytes(file.read(max_bytes + 1))


def _read_local(path: str, max_bytes: int) -> bytes:
    if os.path.exists(path) and not os.path.isfile(path):
        raise _FinalError("not a file")
    with open(path, "rb") as file:
        return file.read(max_bytes + 1)


def _read_web(address: str, places: Places, max_bytes: int) -> bytes:
    protocols = places.allowed | ({places.own} if places.own in WEB else set())
    trusted = web.origin(places.root) if places.own in WEB else ""
    return web.get(address, max_bytes, protocols, trusted)


def _detail(error: Any) -> str:
    """What went wrong, without the address, which libraries like to repeat."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, web.WebError | _FinalError):
        return str(error)
    name = type(error).__name__
    return f"{name}: {os.strerror(error.errno)}" if getattr(error, "errno", None) else name
