"""Captions drawn in GNU Unifont instead of cut into words: CLIPPO's way to read text."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from schemas.storage import Folder, filesystem
from schemas.weights import bare_name
from trainer.tokenizers.tokenizer_json import KIND_FILE
from trainer.tokenizers.unifont import INK, Unifont, load_unifont

KIND = "unifont"
RUN = 16  # pixels of one line in a token, the leftmost in the highest bit


class Rendered:
    """A picture as a row of tokens: each is 16 pixels of a line, a set bit is ink.

    A row of max_length tokens is a square picture of max_length * 16 pixels, so 3,136 for CLIPPO's 224 x 224.
    """

    pad_id = 0  # paper
    vocab_size = 1 << RUN

    def __init__(self, files: Mapping[str, bytes], font: Unifont) -> None:
        """Takes the font's files, to be kept with a run, and the font they make."""
        self._files, self._font = dict(files), font

    @property
    def digest(self) -> str:
        """sha256 hex of the way of drawing and the font."""
        return hashlib.sha256(f"{KIND} 1 {self._font.digest}".encode()).hexdigest()

    def __call__(self, texts: Sequence[str], max_length: int) -> np.ndarray:
        """int32 [n, max_length].

        Raises:
            ValueError: max_length is no square picture's.
        """
        side = picture_side(max_length)
        bits = self._font.draw(texts, side) == INK
        pairs = np.packbits(bits.reshape(len(texts), max_length, RUN), axis=-1).astype(np.int32)
        return pairs[:, :, 0] << 8 | pairs[:, :, 1]

    def save(self, directory: str) -> None:
        """Writes the font's files and `lit_tokenizer.json`."""
        folder = Folder(directory)
        for name, data in self._files.items():
            folder.write(name, data)
        folder.write(KIND_FILE, json.dumps({"kind": KIND, "files": list(self._files)}).encode())


def picture_side(max_length: int) -> int:
    """Pixels of a side of the picture that so many tokens are.

    Raises:
        ValueError: they are no square of whole tokens.
    """
    side = round((max_length * RUN) ** 0.5)
    if side * side != max_length * RUN or side % RUN:
        raise ValueError(
            f"max_length: a drawn caption must have side * side / {RUN} tokens (3136 for a side of 224), found "
            f"{max_length}. Set --max-text-length."
        )
    return side


def read_fonts(path: str) -> Rendered:
    """The drawing of a font file, or of several with a comma between them: later ones win where two have a glyph.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a file is not of Unifont's format.
    """
    paths = path.split(",")
    files = {}
    for one in paths:
        fs, inner = filesystem(one)
        files[bare_name(one)] = fs.cat_file(inner)
    return Rendered(files, load_unifont(*paths))


def load(directory: str) -> Rendered:
    """What `Rendered.save` wrote."""
    names = json.loads(Folder(directory).read(KIND_FILE))["files"]
    return read_fonts(",".join(f"{directory.rstrip('/')}/{name}" for name in names))
