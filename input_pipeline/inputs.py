"""The files that `prepare` reads: which reader takes which, and what the reader has to know."""

from __future__ import annotations

import functools
import glob
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from msgspec.structs import replace

from input_pipeline.behavior import films
from input_pipeline.behavior.rules import SOURCES
from input_pipeline.errors import UserError, nearest
from input_pipeline.sources import (
    blift,
    content_corpus,
    fields,
    lambda_json,
    llava_json,
    media,
    reddit,
    reddit_api,
    table,
    text,
    youtube,
    youtube_api,
)
from input_pipeline.types import Post

# {list in the config: {what an entry may name: whether it must}}
ENTRIES: dict[str, dict[str, bool]] = {
    "reddit": {"submissions": True, "comments": False, "media": True},
    "reddit_api": {"json": True, "media": True},
    "youtube": {"folder": True, "media": False},
    "youtube_api": {"json": True, "media": True},
    "blift": {"files": True, "media": True},
    "corpus": {"files": True, "media": True},
    "tables": {
        "posts": True, "comments": False, "media": True, "columns": False, "comment_columns": False, "source": False,
    },
    "memorability": {"json": True, "videos": False, "text_only": False},
    "instruct": {"json": True, "images": True},
    "captions": {"json": True, "images": True},
    "chat": {"json": True},
    "text": {"jsonl": True},
}  # fmt: skip
_VIDEOS_A_TASK = 256  # info files that are read in one go


@dataclass(frozen=True)
class Input:
    """One file to read, or some files that make one task.

    `number` counts the inputs of a kind, for keys that do not depend on paths. `library` is the index of the
    media, `group` the name under which files are counted together.
    """

    kind: str
    number: int
    path: str
    folder: str = ""  # where the media lie
    library: str = ""
    files: tuple[str, ...] = ()
    group: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    films: bool = False  # whether posts are to know their films


def read(item: Input, library: media.Library | None = None) -> Iterator[Any]:
    """Yields the records of an input: Post, Reply, Sample, Document, Rejected or Passed.

    Args:
        item: of `list_all`.
        library: where to look for media, in place of the one that the input names.
    """
    library = library or media.Library(item.library)
    for result in _read(item, library):
        if item.films and isinstance(result, Post):
            stems = [PurePosixPath(media.name_of(reference)).stem for reference in result.media[:1]]
            stems.append(Path(result.origin.rpartition(":")[0]).name.removesuffix(".info.json"))
            result = replace(result, film=library.film(*stems, result.id) or "")
        yield result


def _read(item: Input, library: media.Library) -> Iterator[Any]:
    options = item.options
    match item.kind:
        case "reddit_posts":
            durations = _durations(library)
            yield from reddit.read_submissions(
                item.path, library, frozenset(options["communities"]), durations
            )
        case "reddit_comments":
            yield from reddit.read_comments(item.path, frozenset(options["communities"]))
        case "reddit_api":
            yield from reddit_api.read(item.path, library, _durations(library))
        case "youtube":
            for path in item.files:
                languages = tuple(options["languages"]) or ("en",)
                yield from youtube.read_video(Path(path), library, languages, item.films)
        case "youtube_api":
            yield from youtube_api.read(item.path, library)
        case "blift":
            yield from blift.read(item.path, library)
        case "corpus":
            yield from content_corpus.read(item.path, library)
        case "table_posts":
            columns = table.Columns.from_config(options["columns"])
            yield from table.read_posts(item.path, columns, library, options["source"])
        case "table_comments":
            yield from table.read_comments(
                item.path, table.Columns.from_config(options["columns"]), options["source"]
            )
        case "memorability":
            yield from lambda_json.read(item.path, item.folder, text_only=options["text_only"])
        case "text":
            yield from text.read(item.path)
        case _:
            yield from llava_json.read(item.path, item.folder, library if item.library else None)


def _durations(library: media.Library) -> Callable[[str], float | None]:
    """Looks a video's length up in yt-dlp's info file among the media: Reddit does not tell it."""

    @functools.lru_cache(1 << 12)
    def duration(video: str) -> float | None:
        try:
            reference = library.info(video)
            info = json.loads(media.read(reference)) if reference else None
        except (OSError, ValueError, RecursionError):
            return None
        return fields.number(info, "duration") if isinstance(info, dict) else None

    return duration


def list_all(settings: dict[str, Any]) -> list[Input]:
    """Lists the files that a config names and checks that they are there. Libraries are not named yet."""
    found: list[Input] = []
    numbers: dict[str, int] = {}
    wants_films = films.from_config(settings["video"]).films

    def add(kind: str, path: str, folder: str = "", **more: Any) -> None:
        numbers[kind] = numbers.get(kind, -1) + 1
        found.append(Input(kind, numbers[kind], path, folder, films=wants_films, **more))

    clean = settings["clean"]
    communities = [name.casefold() for name in clean.get("reddit", {}).get("communities", ())]
    for name, keys in ENTRIES.items():
        for given in settings.get(name, ()):
            entry = _entry(given, name, keys)
            folder = entry.get("media") or entry.get("images") or entry.get("videos") or ""
            if folder and not Path(folder).exists():
                raise UserError(f"{folder}: no such folder (of media, under {name!r} in the prepare config)")
            if name == "reddit":
                for path in _files(entry["submissions"], name):
                    add("reddit_posts", path, folder, options={"communities": communities})
                for path in _files(entry.get("comments"), name):
                    add("reddit_comments", path, options={"communities": communities})
            elif name == "youtube":
                _add_videos(add, entry, folder, clean.get("youtube", {}).get("languages", ()))
            elif name == "tables":
                source = entry.get("source") or "other"
                if source not in SOURCES:
                    raise UserError(
                        f"prepare config: tables: no source {source!r}.{nearest(source, SOURCES)}"
                    )
                for path in _files(entry["posts"], name):
                    options = {"columns": entry.get("columns") or {}, "source": source}
                    table.Columns.from_config(options["columns"])  # for its error
                    add("table_posts", path, folder, options=options)
                for path in _files(entry.get("comments"), name):
                    options = {"columns": entry.get("comment_columns") or {}, "source": source}
                    table.Columns.from_config(options["columns"])
                    add("table_comments", path, options=options)
            else:
                kind = "caption" if name == "captions" else name
                options = {"text_only": bool(entry.get("text_only"))} if name == "memorability" else {}
                for path in _files(next(entry[key] for key in keys), name):
                    add(kind, path, folder, options=options)
    if not found:
        raise UserError(f"prepare config: no sources; name files under {', '.join(ENTRIES)}")
    return found


def _add_videos(add: Callable[..., None], entry: dict[str, Any], folder: str, languages: Any) -> None:
    root = str(entry["folder"])
    paths = [str(path) for path in youtube.list_files(root)]
    if not paths:
        raise UserError(f"{root}: holds no *.info.json of yt-dlp")
    for start in range(0, len(paths), _VIDEOS_A_TASK):
        some = tuple(paths[start : start + _VIDEOS_A_TASK])
        home = folder or (root if Path(root).is_dir() else str(Path(root).parent))
        add("youtube", some[0], home, files=some, group=root, options={"languages": list(languages)})


def _entry(given: Any, name: str, keys: dict[str, bool]) -> dict[str, Any]:
    entry: Any = given
    if isinstance(given, str) and sum(keys.values()) == 1:
        entry = {next(key for key, must in keys.items() if must): given}
    wrong = not isinstance(entry, dict) or not set(entry) <= set(keys)
    if wrong or any(must and not entry.get(key) for key, must in keys.items()):
        listed = ", ".join(key if must else f"[{key}]" for key, must in keys.items())
        raise UserError(f"prepare config: an entry of {name!r} needs {listed}; it is {given!r}")
    return dict(entry)


def _files(value: Any, name: str) -> list[str]:
    """A path, a pattern with * or a list of either -> the paths, sorted within each pattern."""
    paths: list[str] = []
    for item in value if isinstance(value, list | tuple) else [value] if value else []:
        pattern = str(item)
        if Path(pattern).is_file():
            paths.append(pattern)
        elif matches := sorted(filter(os.path.isfile, glob.glob(pattern, recursive=True))):  # noqa: PTH207
            paths += matches
        else:
            raise UserError(f"{pattern}: no such file (named under {name!r} in the prepare config)")
    return paths
