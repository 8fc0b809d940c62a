"""What `prepare` is asked to do: checks its config, lists the files that it names, and fingerprints both."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline import inputs
from input_pipeline.behavior import arms, films, language, nsfw_words, templates, told_scenes
from input_pipeline.behavior.arms import Arm
from input_pipeline.behavior.rules import SOURCES, Rules
from input_pipeline.errors import UserError, nearest
from input_pipeline.inputs import Input
from input_pipeline.partial import partial_of
from input_pipeline.sources import media

VERSION = 3  # raise it when the same input would give other records
_KEYS = {
    *inputs.ENTRIES, "heldout_fraction", "seed", "arms", "behaviors", "template", "templates", "clean",
    "max_bad_fraction", "max_image_side", "max_asr_words", "scenes", "scenes_by", "video",
    "video_templates", "beam",
}  # fmt: skip
_BUCKET = 16 * 2**20  # bytes of raw text for each bucket
_MOST_BUCKETS = 1024
# How much larger than its file the text in it is, roughly.
_EXPANSION = {".zst": 8, ".gz": 6, ".parquet": 3}


def with_sources(config: ConfigDict, flags: Any) -> ConfigDict:
    """Adds the files that a command line names to a config: its own lists stay where a flag is not given.

    Args:
        config: of configs/prepare.py; changed in place and returned.
        flags: has submissions, comments, media, youtube, youtube_api, blift, corpus, table, table_comments,
            columns, instruct, captions, images, chat and text, each a path or None; also workers and runner.
    """
    given = {name: value for name, value in vars(flags).items() if value is not None}
    for name, needed in (
        ("comments", "submissions"),
        ("submissions", "media"),
        ("youtube_api", "media"),
        ("blift", "media"),
        ("corpus", "media"),
        ("table", "media"),
        ("table_comments", "table"),
        ("columns", "table"),
        ("instruct", "images"),
        ("captions", "images"),
    ):
        if name in given and needed not in given:
            raise UserError(f"--{name.replace('_', '-')} needs --{needed}")
    if "media" in given and not given.keys() & {
        "submissions",
        "youtube",
        "youtube_api",
        "blift",
        "corpus",
        "table",
    }:
        raise UserError("--media needs --submissions, --youtube, --youtube-api, --blift, --corpus or --table")
    path = {name: str(value) for name, value in given.items()}
    folder = path.get("media", "")
    if "submissions" in given:
        entry = {"submissions": path["submissions"], "comments": path.get("comments", ""), "media": folder}
        config.reddit = (entry,)
    if "youtube" in given:
        config.youtube = ({"folder": path["youtube"], "media": folder},)
    for name, key in (("youtube_api", "json"), ("blift", "files"), ("corpus", "files")):
        if name in given:
            config[name] = ({key: path[name], "media": folder},)
    if "table" in given:
        columns = _columns(path["columns"]) if "columns" in given else {}
        config.tables = (
            {
                "posts": path["table"],
                "comments": path.get("table_comments", ""),
                "media": folder,
                "columns": columns.get("posts", {}),
                "comment_columns": columns.get("comments", {}),
            },
        )
    for name in ("instruct", "captions"):
        if name in given:
            config[name] = ({"json": path[name], "images": path["images"]},)
    if "scenes" in given:
        config.scenes = path["scenes"]
    if "chat" in given:
        config.chat = ({"json": path["chat"]},)
    if "text" in given:
        config.text = ({"jsonl": path["text"]},)
    beam = {name: given[name] for name in ("workers", "runner") if name in given}
    config.beam = {**plain(config.beam), **beam}
    return config


def _columns(value: str) -> dict[str, Any]:
    """--columns: JSON itself or a file of it; {our field: column}, or {"posts": {...}, "comments": {...}}."""
    try:
        found = json.loads(Path(value).read_text(encoding="utf-8") if Path(value).is_file() else value)
    except (ValueError, OSError):
        found = None
    parts = ("posts", "comments")
    if isinstance(found, dict) and any(isinstance(value, dict) for value in found.values()):
        for name in found:
            if name not in parts:
                raise UserError(f"--columns: no part {name!r}.{nearest(name, parts)}")
    elif isinstance(found, dict):
        found = {"posts": found}
    if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
        raise UserError(
            f'--columns {value}: neither a JSON object such as {{"title": "headline"}} nor a file of one'
        )
    return found


def plain(config: Any) -> Any:
    """ConfigDicts and tuples as JSON has them."""
    if isinstance(config, ConfigDict | Mapping):
        return {key: plain(config[key]) for key in config}
    return [plain(value) for value in config] if isinstance(config, list | tuple) else config


def check(settings: dict[str, Any]) -> tuple[Rules, tuple[Arm, ...]]:
    """Checks a plain config, fills in what it lacks, and returns its rules and arms. UserError names what is wrong."""
    from configs.prepare import get_config

    for name in settings:
        if name not in _KEYS:
            raise UserError(f"prepare config: no setting {name!r}.{nearest(name, _KEYS)}")
    for name, value in plain(get_config()).items():
        settings.setdefault(name, value)
    for name in ("heldout_fraction", "max_bad_fraction"):
        if not isinstance(settings[name], int | float) or not 0 <= settings[name] <= 1:
            raise UserError(f"prepare config: {name}={settings[name]!r} is not a share from 0 to 1")
    for name, least in (("max_image_side", 0), ("seed", 0)):
        if not isinstance(settings[name], int) or settings[name] < least:
            raise UserError(
                f"prepare config: {name}={settings[name]!r} is not a whole number from {least} on"
            )
    if settings["scenes_by"] not in told_scenes.BY:
        raise UserError(
            f"prepare config: scenes_by={settings['scenes_by']!r}.{nearest(str(settings['scenes_by']), told_scenes.BY)}"
        )
    if settings["scenes"] and not Path(settings["scenes"]).is_file():
        raise UserError(f"{settings['scenes']}: no such file (named under 'scenes' in the prepare config)")
    workers = settings["beam"].get("workers", 1)
    if not isinstance(workers, int) or workers < 1:
        raise UserError(f"--workers {workers}: at least 1 is needed")
    wording = settings["template"] or settings["templates"]
    told = tuple(settings["behaviors"])
    showing = films.from_config(settings["video"])
    of_films = settings["video_templates"] if showing.films else None
    chosen = arms.make(tuple(settings["arms"]), wording, told, settings["max_asr_words"], of_films)
    for source, name in (of_films or {}).items():
        if showing.show != "scenes" and templates.get(name).scene:
            raise UserError(
                f"prepare config: video_templates.{source}={name!r} shows scene by scene; set video.show=scenes"
            )
    rules = Rules.from_config(settings["clean"])
    # Their errors belong here, not into a worker.
    nsfw_words.finder.cache_clear()  # the file may have changed since an earlier run in this process
    nsfw_words.finder(rules.nsfw_words)
    for source in SOURCES:
        for code in getattr(rules, source).languages:
            if len(code) not in (2, 3) or not code.islower():
                raise UserError(f"clean.{source}.languages: {code!r} is not a language code such as 'en'")
    if any(getattr(rules, source).languages for source in SOURCES):
        language.identify("Is the identifier there?")
    return rules, chosen


def with_libraries(found: Sequence[Input], work: Path) -> list[Input]:
    """Lists the media of each folder once into an index under `work` and tells each input its index."""
    folders = sorted({item.folder for item in found if item.folder})
    index: dict[str, str] = {}
    for number, folder in enumerate(folders):
        path = work / f"media.{number}.sqlite"
        if not path.exists():
            media.build([folder], partial_of(path))
            partial_of(path).rename(path)
        index[folder] = str(path)
    return [replace(item, library=index.get(item.folder, "")) for item in found]


def count_buckets(found: Sequence[Input]) -> int:
    """How many parts the posts are divided into: by the size of the files alone, so that results depend on no more."""
    size = 0
    for item in found:
        for name in item.files or (item.path,):
            path = Path(name)
            size += path.stat().st_size * _EXPANSION.get(path.suffix, 1)
    return min(max(-(-size // _BUCKET), 1), _MOST_BUCKETS)


def version_of(settings: dict[str, Any]) -> str:
    """Names the funnel that cleaned a record: the version of the code and a hash of all thresholds."""
    rules = hashlib.sha256(json.dumps(settings["clean"], sort_keys=True).encode()).hexdigest()
    return f"{VERSION}-{rules[:8]}"


def fingerprint_of(settings: dict[str, Any], found: Sequence[Input]) -> str:
    """A hash of the config and of the size and time of change of every input file and every medium."""
    # How the work is done, and when it is given up, is not what it makes.
    recipe = {name: value for name, value in settings.items() if name not in ("beam", "max_bad_fraction")}
    digest = hashlib.sha256(json.dumps([VERSION, recipe], sort_keys=True).encode())

    def stamp(path: str) -> None:
        status = os.stat(path)  # noqa: PTH116 -- millions of them
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))

    for item in found:
        for path in item.files or (item.path,):
            stamp(path)
    clean = settings["clean"]
    for root in sorted(
        {item.folder for item in found if item.folder} | set(clean.get("evaluation_images", ()))
    ):
        if Path(root).is_file():
            stamp(root)
        for folder, names in media.walk(root):
            for name in names:
                stamp(os.path.join(folder, name))  # noqa: PTH118
    for path in (*clean.get("evaluation_ids", ()), clean.get("nsfw_words", ""), settings["scenes"]):
        if path:
            stamp(path)
    return digest.hexdigest()


def to_json(found: Sequence[Input]) -> list[dict[str, Any]]:
    """The inputs, for summary.json."""
    return [
        {key: value for key, value in asdict(item).items() if value and key != "library"} for item in found
    ]
