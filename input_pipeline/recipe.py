"""What `prepare` is asked to do: checks its config, lists the files that it names, and fingerprints both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.behavior import nsfw_words, templates
from input_pipeline.behavior.clean import Rules
from input_pipeline.errors import UserError, nearest
from input_pipeline.sources import media, youtube

ARMS = ("behavior", "ad", "shuffled")
_VERSION = 2  # raise it when the same input would give other records
_KEYS = {
    "reddit", "youtube", "instruct", "captions", "chat", "text", "heldout_fraction", "seed", "arms", "template",
    "clean", "max_bad_fraction", "beam",
}  # fmt: skip


@dataclass(frozen=True)
class Input:
    """One file to read. `number` counts the files of its kind, for keys that do not depend on paths."""

    kind: str  # reddit_posts, reddit_comments, youtube, instruct, caption, chat, text
    number: int
    path: str
    folder: str = ""  # of its media


def with_sources(config: ConfigDict, flags: Any) -> ConfigDict:
    """Adds the files that a command line names to a config: its own lists stay where a flag is not given.

    Args:
        config: of configs/prepare.py; changed in place and returned.
        flags: has submissions, comments, media, youtube, instruct, captions, images, chat and text, each a path
        or None.
    """
    given = {name: str(value) for name, value in vars(flags).items() if value is not None}
    for name, needed in (("comments", "submissions"), ("media", "submissions"), ("submissions", "media")):
        if name in given and needed not in given:
            raise UserError(f"--{name} needs --{needed}")
    if "submissions" in given:
        config.reddit = (
            {
                "submissions": given["submissions"],
                "comments": given.get("comments", ""),
                "media": given["media"],
            },
        )
    if "youtube" in given:
        config.youtube = ({"folder": given["youtube"]},)
    for name in ("instruct", "captions"):
        if name in given:
            if "images" not in given:
                raise UserError(f"--{name} needs --images")
            config[name] = ({"json": given[name], "images": given["images"]},)
    if "chat" in given:
        config.chat = ({"json": given["chat"]},)
    if "text" in given:
        config.text = ({"jsonl": given["text"]},)
    return config


def plain(config: Any) -> Any:
    """ConfigDicts and tuples as JSON has them."""
    if isinstance(config, ConfigDict | Mapping):
        return {key: plain(config[key]) for key in config}
    return [plain(value) for value in config] if isinstance(config, list | tuple) else config


def check(settings: dict[str, Any]) -> Rules:
    from configs.prepare import get_config

    for name in settings:
        if name not in _KEYS:
            raise UserError(f"prepare config: no setting {name!r}.{nearest(name, _KEYS)}")
    for name, value in plain(get_config()).items():
        settings.setdefault(name, value)
    for arm in settings["arms"]:
        if arm not in ARMS:
            raise UserError(f"prepare config: no arm {arm!r}.{nearest(arm, ARMS)}")
    for name in ("heldout_fraction", "max_bad_fraction"):
        if not isinstance(settings[name], int | float) or not 0 <= settings[name] <= 1:
            raise UserError(f"prepare config: {name}={settings[name]!r} is not a share from 0 to 1")
    templates.get(settings["template"])
    rules = Rules.from_config(settings["clean"])
    nsfw_words.pattern(rules.nsfw_words)  # its errors belong here, not into a worker
    return rules


def list_inputs(settings: dict[str, Any]) -> list[Input]:
    """Lists the files to read and checks that they are there."""
    inputs: list[Input] = []

    def add(kind: str, path: str, folder: str = "") -> None:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file (named under {kind!r} in the prepare config)")
        if folder and not Path(folder).is_dir():
            raise UserError(f"{folder}: no such folder (of the media of {path})")
        number = sum(item.kind == kind for item in inputs)
        inputs.append(Input(kind, number, str(path), str(folder)))

    for entry in settings["reddit"]:
        submissions, comments, folder = _entry(entry, "reddit", ("submissions", "comments", "media"))
        add("reddit_posts", submissions, folder)
        if comments:
            add("reddit_comments", comments)
    for entry in settings["youtube"]:
        (folder,) = _entry(entry, "youtube", ("folder",))
        found = youtube.list_files(folder)
        if not found:
            raise UserError(f"{folder}: holds no *.info.json of yt-dlp")
        for path in found:
            add("youtube", str(path))
    for kind, name in (("instruct", "instruct"), ("caption", "captions")):
        for entry in settings[name]:
            add(kind, *_entry(entry, name, ("json", "images")))
    for entry in settings["chat"]:
        add("chat", *_entry(entry, "chat", ("json",)))
    for entry in settings["text"]:
        add("text", *_entry(entry, "text", ("jsonl",)))
    if not inputs:
        raise UserError(
            "prepare config: no sources; name files under reddit, youtube, instruct, captions, chat or text"
        )
    return inputs


def _entry(entry: Any, name: str, keys: tuple[str, ...]) -> list[str]:
    if isinstance(entry, str) and len(keys) == 1:
        return [entry]
    if not isinstance(entry, dict) or not set(entry) <= set(keys) or not entry.get(keys[0]):
        raise UserError(f"prepare config: an entry of {name!r} needs {', '.join(keys)}; it is {entry!r}")
    return [entry.get(key) or "" for key in keys]


def fingerprint_of(settings: dict[str, Any], inputs: list[Input]) -> str:
    """A hash of the config and of the size and time of change of every input file."""

    def stamp(path: Path) -> tuple[str, int, int]:
        status = path.stat()
        return str(path), status.st_size, status.st_mtime_ns

    files = [stamp(Path(item.path)) for item in inputs]
    for folder in sorted({item.folder for item in inputs if item.folder}):
        files += [stamp(path) for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    for item in inputs:
        if item.kind == "youtube" and (image := media.find(str(Path(item.path).parent), _stem(item.path))):
            files.append(stamp(Path(image)))
    recipe = {name: value for name, value in settings.items() if name != "beam"}
    return hashlib.sha256(json.dumps([_VERSION, recipe, files], sort_keys=True).encode()).hexdigest()


def _stem(path: str) -> str:
    return Path(path).name.removesuffix(".info.json")
