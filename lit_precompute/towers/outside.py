"""Towers from outside this package: `--tower package.module:build` calls that function.

It is the one place where a name from the command line decides which code runs; a checkpoint never does.
"""

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from lit_precompute.config import TowerConfig
from lit_precompute.towers.tower import Tower, as_asked
from schemas.file_bytes import open_bytes
from schemas.storage import StorageOptions
from schemas.weights import WeightsFile, bare_name, read_weights

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class Checkpoint:
    """What `--checkpoint` names, not read yet: a tower from outside knows what kind of file it wants.

    Attributes:
        path: as given, or None.
    """

    path: str | None
    storage_options: StorageOptions | None = None

    def content(self) -> tuple[bytes, str]:
        """The bytes of the file and their sha256 in hex, which is what `TowerInfo.weights` wants.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: none was named.
        """
        path = self._given()
        with open_bytes(path, bare_name(path), self.storage_options) as raw:
            return bytes(raw.data), raw.sha256

    def tensors(self) -> WeightsFile:
        """The file as a weight file (npz, safetensors, torch archive). Raises as `content`."""
        return read_weights(self._given(), self.storage_options)

    def _given(self) -> str:
        if self.path is None:
            raise ValueError("--checkpoint: must name the file of this tower, found none.")
        return self.path


def is_outside(tower: str) -> bool:
    """Whether a tower's name is that of a function, `package.module:build`."""
    return ":" in tower


def load_outside(config: TowerConfig, storage_options: StorageOptions | None) -> Tower:
    """What the named function builds from the configuration and the checkpoint.

    The tower is named after the module, which it has to give its `TowerInfo` (`config.tower` says it).

    Raises:
        ValueError: there is no such function here, or it gives no tower.
    """
    build = _function(config.tower)
    module = config.tower.split(":")[0]
    config = replace(config, tower=module.lower().strip("_"))
    tower = build(config, Checkpoint(config.checkpoint, storage_options))
    if not isinstance(tower, Tower):
        raise ValueError(f"--tower: {module} must build a Tower, found {type(tower).__name__}.")
    return as_asked(config, tower)


def _function(name: str) -> Callable[[TowerConfig, Checkpoint], object]:
    if not NAME.fullmatch(name):
        raise ValueError(f"--tower: must be a known name or package.module:function, found {name!r}.")
    module, function = name.split(":")
    try:
        found: Callable[[TowerConfig, Checkpoint], object] = getattr(
            importlib.import_module(module), function
        )
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"--tower {name}: must be a function that can be imported here and on every worker, found {error}. Install "
            "its package, or put its folder on PYTHONPATH."
        ) from error
    if not callable(found):
        raise ValueError(f"--tower {name}: must be a function, found {type(found).__name__}.")
    return found
