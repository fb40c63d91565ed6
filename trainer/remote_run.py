"""A run whose folder is on object storage: worked on in a local copy, every checkpoint copied out whole.

The local copy is a folder like any run's. Each checkpoint that is finished there is uploaded in the background, then
`complete.json`, which lists its files: a checkpoint without it was cut off and does not count. What is small goes along
with every checkpoint. A run that begins where the local copy is older, or lost, fetches what is remote first.
"""

import json
import shutil
import threading
from collections.abc import Iterable
from pathlib import Path

from schemas.digests import sha256_json
from schemas.storage import Folder, StorageOptions

COMPLETE = "complete.json"
FOLDERS = ("checkpoints", "best")  # of checkpoints; everything else is small
_LOOK_EVERY = 0.5  # seconds


def is_remote(path: str) -> bool:
    """Whether a run's path is a URL rather than a local folder."""
    return "://" in path


def working_folder(url: str, root: Path) -> Path:
    """The local copy of a run at `url`, below the folder of spools."""
    return root / "runs" / sha256_json(url.rstrip("/"))[:16]


def fetch(url: str, local: Path, options: StorageOptions | None = None) -> None:
    """Bring the local copy up to what is remote: checkpoints that it lacks, and what is small.

    Small files that are here already are fetched again only where a newer checkpoint is there.

    Raises:
        OSError: the storage cannot be read.
    """
    remote = Folder(url, options)
    own = max((step for name in FOLDERS for step in _steps(local / name)), default=-1)
    there = {name: _complete_steps(remote.child(name)) for name in FOLDERS}
    newer = max((step for steps in there.values() for step in steps), default=-1) > own
    _download(remote, local, small=True, again=newer or not local.exists())
    for name, steps in there.items():
        for step in steps:
            if not (local / name / str(step)).exists():
                aside = local / f".fetching-{name}-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                _download(remote.child(name).child(str(step)), aside, small=False, again=True)
                (local / name).mkdir(parents=True, exist_ok=True)
                aside.rename(local / name / str(step))


def upload(files: Iterable[Path], local: Path, url: str, options: StorageOptions | None = None) -> list[str]:
    """Copies files out, each to its place relative to a local folder; gives their URLs.

    Args:
        files: below `local`.
        local: what `url` is a copy of.
        url: where to.
        options: fsspec's, by protocol.

    Raises:
        OSError: the storage cannot be written to.
    """
    remote, places = Folder(url, options), []
    for file in files:
        name = file.relative_to(local).as_posix()
        _upload(remote, name, file)
        places.append(f"{url.rstrip('/')}/{name}")
    return places


class Mirror:
    """Uploads a run while it goes on; in the process that speaks for all.

    Args:
        url: where to.
        local: the run's local copy.
        options: fsspec's, by protocol.
    """

    def __init__(self, url: str, local: Path, options: StorageOptions | None = None) -> None:
        self._remote, self._local = Folder(url, options), local
        self._done = {name: set(_complete_steps(self._remote.child(name))) for name in FOLDERS}
        self._ending = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._work, name="upload", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what went wrong with an upload.

        Raises:
            OSError: the storage could not be written to.
        """
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Upload what is left, and wait for it.

        Raises:
            OSError: the storage could not be written to.
        """
        self._ending.set()
        self._thread.join()
        self.check()

    def _work(self) -> None:
        try:
            while not self._ending.wait(_LOOK_EVERY):
                self._upload_checkpoints()
            self._upload_checkpoints()
            self._upload_small()
        except Exception as error:
            self._error = error if isinstance(error, OSError) else OSError(f"{self._remote.path}: {error}")

    def _upload_checkpoints(self) -> None:
        """Those that are whole here and not yet there; then those go that are no longer here."""
        for name in FOLDERS:
            here = _steps(self._local / name)
            for step in here - self._done[name]:
                self._upload_small()  # first, so that whoever finds the checkpoint finds what belongs to it
                self._upload_checkpoint(name, step)
            for step in self._done[name] - here if here else ():
                folder = self._remote.child(name).child(str(step))
                _remove(folder)
                self._done[name].discard(step)

    def _upload_checkpoint(self, name: str, step: int) -> None:
        source, target = self._local / name / str(step), self._remote.child(name).child(str(step))
        sizes = {}
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            relative = file.relative_to(source).as_posix()
            _upload(target, relative, file)
            sizes[relative] = file.stat().st_size
        target.again(lambda: target.fs.pipe_file(target.at(COMPLETE), json.dumps(sizes).encode()), COMPLETE)
        self._done[name].add(step)

    def _upload_small(self) -> None:
        for file in _small_files(self._local):
            _upload(self._remote, file.relative_to(self._local).as_posix(), file)


def _upload(folder: Folder, name: str, file: Path) -> None:
    folder.again(lambda: folder.fs.put_file(str(file), folder.at(name)), name)


def _remove(folder: Folder) -> None:
    """A remote checkpoint; what says that it is whole goes first."""
    folder.again(lambda: folder.fs.rm_file(folder.at(COMPLETE)), COMPLETE)
    folder.again(lambda: folder.fs.rm(folder.root, recursive=True))


def _small_files(local: Path) -> list[Path]:
    """The files of a run outside of its checkpoints, what is being written left out.

    Checkpoints are not even listed: what is being written there goes by another name from one moment to the next.
    """
    found: list[Path] = []
    for child in sorted(local.iterdir()):
        if child.name not in FOLDERS:
            found += sorted(child.rglob("*")) if child.is_dir() else [child]
    whole = (path for path in found if path.is_file() and path.suffix != ".tmp")
    return [path for path in whole if _counts(path.relative_to(local).parts)]


def _counts(parts: tuple[str, ...]) -> bool:
    return parts[0] not in FOLDERS and not any(part.startswith(".") for part in parts)


def _steps(folder: Path) -> set[int]:
    """The steps of the whole checkpoints of a local folder: one that is being written has another name."""
    return {int(path.name) for path in folder.iterdir() if path.name.isdigit()} if folder.is_dir() else set()


def _complete_steps(folder: Folder) -> list[int]:
    """The steps of a remote folder whose checkpoints are complete, ascending."""
    steps = sorted(int(name) for name in folder.folders() if name.isdigit())
    return [step for step in steps if folder.child(str(step)).exists(COMPLETE)]


def _download(remote: Folder, local: Path, small: bool, again: bool) -> None:
    """All of a folder, or what is small there; files that are here are left as they are unless asked for again."""
    for name in remote.again(lambda: remote.fs.find(remote.root)):
        relative = str(name).strip("/").removeprefix(remote.root.strip("/")).strip("/")
        if not relative or relative == COMPLETE or (small and not _counts(tuple(relative.split("/")))):
            continue
        if again or not (local / relative).exists():
            _download_file(remote, str(name), local / relative)


def _download_file(remote: Folder, path: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    remote.again(lambda: remote.fs.get_file(path, str(target)), target.name)
