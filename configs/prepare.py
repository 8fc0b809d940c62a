"""Recipe of `prepare`: which raw files become which instruction records, and how they are cleaned.

    get_config("raw=runs/plaza/raw")             everything that the raw layout has
    get_config("raw=my/raw,heldout=0.1,seed=1")

The raw layout is the plaza's: reddit/RS_*.ndjson, RC_*.ndjson and media/, youtube/*.info.json with
thumbnails, instruct/instruct.json, captions.json and images/, text/*.jsonl and *.json. What is not there is
left out.
For files that lie elsewhere, take the config of get_config("") and fill its lists.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from configs.arguments import parse
from input_pipeline.errors import UserError


def get_config(arg: str = "") -> ConfigDict:
    """Returns the recipe. `arg` is 'name=value' pairs joined by commas: raw, heldout, seed."""
    given = parse(arg, raw="", heldout=0.15, seed=0)
    config = ConfigDict()

    # Lists of what to read; every path is absolute or relative to the working directory.
    config.reddit = ()  # {"submissions": path, "comments": path, "media": folder}
    config.youtube = ()  # {"folder": of *.info.json files, each with its thumbnail beside it}
    config.instruct = ()  # {"json": path, "images": folder}: LLaVA conversations
    config.captions = ()  # {"json": path, "images": folder}: LLaVA image-caption pairs
    config.chat = ()  # {"json": path}: text-only LLaVA conversations, for the decoder alone
    config.text = ()  # {"jsonl": path}: lines with "text"
    if given.raw:
        fill(config, Path(str(given.raw)))

    config.heldout_fraction = given.heldout  # by a stable hash of the post, image or text
    config.seed = given.seed  # who is dealt whose behaviour in `shuffled`; nothing else is random
    config.arms = ("behavior", "ad", "shuffled")
    config.template = "image_behavior_v1"

    # Thresholds of the funnel, see input_pipeline/behavior/clean.py; these are the paper's.
    config.clean = ConfigDict()
    config.clean.reddit = {
        "min_words": 3,
        "max_words": 100,  # ours; the paper has none for Reddit
        "similarity": 0.6,
        "min_comments": 2,
        "created_from": "2018-01-01",
    }
    config.clean.youtube = {
        "min_words": 4,
        "max_words": 100,
        "similarity": 0.7,
        "min_comments": 0,
        "min_views": 10_001,
    }
    config.clean.drop_duplicate_media = True
    config.clean.merge_comments = True
    config.clean.nsfw_words = ""  # path of a word list, '' for our own short one

    config.max_bad_fraction = (
        0.05  # broken input beyond this share of all records, or of one file's, stops the run
    )

    # Beam: '' is this process; else a runner's name and its flags.
    config.beam = {"runner": "", "flags": ()}
    return config


def fill(config: ConfigDict, raw: Path) -> None:
    """Names everything that the raw layout under `raw` has in the config's lists."""
    if not raw.is_dir():
        raise UserError(f"raw={raw}: no such folder")
    reddit = raw / "reddit"
    found = []
    for submissions in sorted(reddit.glob("RS_*")) if reddit.is_dir() else ():
        comments = submissions.with_name("RC_" + submissions.name.removeprefix("RS_"))
        found.append(
            {
                "submissions": str(submissions),
                "comments": str(comments) if comments.exists() else "",
                "media": str(reddit / "media"),
            }
        )
    config.reddit = tuple(found)
    if (raw / "youtube").is_dir():
        config.youtube = ({"folder": str(raw / "youtube")},)
    images = str(raw / "instruct" / "images")
    for name, file in (("instruct", "instruct.json"), ("captions", "captions.json")):
        if (raw / "instruct" / file).exists():
            config[name] = ({"json": str(raw / "instruct" / file), "images": images},)
    config.chat = tuple({"json": str(path)} for path in sorted((raw / "text").glob("*.json")))
    config.text = tuple({"jsonl": str(path)} for path in sorted((raw / "text").glob("*.jsonl")))
    if not any(config[name] for name in ("reddit", "youtube", "instruct", "captions", "chat", "text")):
        raise UserError(
            f"raw={raw}: none of reddit/, youtube/, instruct/ and text/ is there with files to read"
        )
