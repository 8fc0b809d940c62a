"""Releases that tell a picture's or video's class by its folder, "fear/17.jpg": trees, and lists of such names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from input_pipeline import video
from jaxllava.evaluate import media
from jaxllava.evaluate.tasks import releases
from jaxllava.evaluate.tasks.task import Item, Rejected

Words = Mapping[str, Sequence[str]]  # the word that is asked for -> the release's other names of the class

MIKELS: Words = {
    "amusement": (),
    "anger": ("angry",),
    "awe": (),
    "contentment": ("content",),
    "disgust": (),
    "excitement": (),
    "fear": (),
    "sadness": ("sad",),
}
EKMAN: Words = {
    "anger": ("angry",),
    "disgust": (),
    "fear": (),
    "joy": ("happiness", "happy"),
    "sadness": ("sad",),
    "surprise": (),
}


def question(words: Words, what: str) -> str:
    """What the emotion tasks ask: the paper gives no words, only that the likeliest of the classes is the answer."""
    return f"Which of these emotions does the {what} evoke: {', '.join(words)}? Answer with one word."


def root_of(folder: Path, words: Words, *below: str) -> Path:
    """The first of folder/below that holds a folder named as a class; folder, where none does."""
    of = releases.word_of(words)
    for name in below:
        if (folder / name).is_dir() and any(of(p.name) and p.is_dir() for p in (folder / name).iterdir()):
            return folder / name
    return folder


def from_tree(
    root: Path, words: Words, prompt: str, is_media: Callable[[Path], bool]
) -> Iterator[Item | Rejected]:
    """An item of each file (or folder of frames) in the folders of classes, "class/stem", in order of their names."""
    of = releases.word_of(words)
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and of(p.name)):
        for path in sorted(folder.iterdir(), key=_by_number):
            if is_media(path):
                yield Item(f"{folder.name}/{_stem(path)}", prompt, (path,), of(folder.name))
            elif not path.name.startswith("."):
                yield Rejected(str(path), "neither a picture nor a video")


def from_list(path: Path, root: Path, words: Words, prompt: str, is_video: bool) -> Iterator[Item | Rejected]:
    """An item of each line "[.../]class/name [more]"; what stands behind a blank is not needed."""
    of = releases.word_of(words)
    for where, line in releases.lines(path):
        name = PurePosixPath(line.split()[0].replace("\\", "/"))
        yield named(where, name.parent.name, name.name, root, of, prompt, is_video)


def named(
    where: str, label: str, name: str, root: Path, of: Callable[[str], str], prompt: str, is_video: bool
) -> Item | Rejected:
    """The item of a file that a list names. The suffix of a video may be another one than the list has."""
    if not name or not of(label):
        return Rejected(where, f"unknown class {label!r}" if name else "no file name")
    folder = root / label
    path = folder / name
    if is_video and not path.exists():
        path = media.locate(folder, name.rsplit(".", 1)[0] if _has_suffix(name) else name)
    return Item(f"{label}/{_stem(Path(name))}", prompt, (path,), of(label))


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in video.PICTURES and path.is_file()


def _has_suffix(name: str) -> bool:
    return Path(name).suffix.lower() in (*video.SUFFIXES, ".npy")


def _stem(path: Path) -> str:
    known = (*video.SUFFIXES, *video.PICTURES, ".npy")
    return path.stem if path.suffix.lower() in known else path.name


def _by_number(path: Path) -> tuple[int, str]:
    stem = _stem(path)
    return (int(stem) if stem.isdigit() else 10**12, path.name)
