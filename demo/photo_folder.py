"""What a folder of images and captions holds, seen before any work is done with it."""

from dataclasses import dataclass
from pathlib import Path

from lit_precompute.sources.image_files import IMAGE_SUFFIXES

FEWEST = 50  # a fifth is held out: with fewer, recall among those says nothing


@dataclass(frozen=True)
class PhotoFolder:
    """What lies in a folder.

    Attributes:
        images: files by id, the path below the folder without its suffix.
        captions: the first caption by id, for images that have one.
    """

    images: dict[str, Path]
    captions: dict[str, str]

    def summary(self) -> str:
        """One line."""
        return (
            f"{len(self.images):,} images, {len(self.captions):,} with a caption, "
            f"{len(set(self.captions.values())):,} different first captions"
        )

    def check(self, name: str) -> None:
        """Refuses a folder that cannot give a figure.

        Raises:
            ValueError: it holds too few images with captions, or too few different captions.
        """
        different = len(set(self.captions.values()))
        if different >= FEWEST:
            return
        if not self.images:
            advice = f"Put images there ({', '.join(IMAGE_SUFFIXES)})."
        elif len(self.captions) < FEWEST:
            advice = (
                "Write each image's caption into a text file beside it: dog.jpg, dog.txt; a line a caption."
            )
        else:
            advice = "Captions must tell the images apart; a class name shared by many does not."
        raise ValueError(
            f"--data: {name} must hold at least {FEWEST} images with different captions, found {self.summary()}. "
            + advice
        )


def read_folder(name: str) -> PhotoFolder:
    """Lists images and their first captions, folders below included.

    Raises:
        ValueError: there is no such folder.
    """
    root = Path(name)
    if not name or not root.is_dir():
        raise ValueError(
            f"--data: must be a folder of images, found {name!r}. make demo-photos DATA=path/to/folder"
        )
    images: dict[str, Path] = {}
    captions: dict[str, str] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower().removeprefix(".") in IMAGE_SUFFIXES and path.is_file():
            key = path.relative_to(root).with_suffix("").as_posix()
            images.setdefault(key, path)
            if caption := first_caption(path.with_suffix(".txt")):
                captions[key] = caption
    return PhotoFolder(images, captions)


def first_caption(path: Path) -> str:
    """The first line of a text file that is not blank; empty where there is none."""
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return next((line.strip() for line in lines if line.strip()), "")
