"""Recipe of `prepare`: which raw files become which instruction records, and how they are cleaned.

    get_config("raw=runs/plaza/raw")             everything that the raw layout has
    get_config("raw=my/raw,heldout=0.1,seed=1")

The raw layout is the plaza's: reddit/RS_*.ndjson, RC_*.ndjson and media/, youtube/*.info.json with
thumbnails, instruct/instruct.json, captions.json and images/, text/*.jsonl and *.json. What is not there is
left out.
For files that lie elsewhere, take the config of get_config("") and fill its lists.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ml_collections import ConfigDict

from configs.arguments import parse
from input_pipeline.behavior.rules import SOURCES, Rules
from input_pipeline.errors import UserError


def get_config(arg: str = "") -> ConfigDict:
    """Returns the recipe. `arg` is 'name=value' pairs joined by commas: raw, heldout, seed."""
    given = parse(arg, raw="", heldout=0.15, seed=0)
    config = ConfigDict()

    # Lists of what to read. Files are absolute or relative to the working directory, may be patterns ("RS_*.zst")
    # or lists, plain, .gz or .zst; media are folders (with all below them, also tar shards) or one .tar.
    config.reddit = ()  # {"submissions": files, "comments": files, "media": folder}: Pushshift, Arctic Shift dumps
    config.reddit_api = ()  # {"json": files, "media": folder}: listings and search answers
    config.youtube = ()  # {"folder": of *.info.json files, "media": folder unless the thumbnails lie beside them}
    config.youtube_api = ()  # {"json": files, "media": folder}: answers of the Data API v3
    config.blift = ()  # {"files": parquet or JSON lines, "media": folder}
    config.corpus = ()  # {"files": parquet or JSON, "media": folder}: content-behavior-corpus
    # {"posts": CSV, JSON lines or parquet, "comments": the same, "media": folder, "source": whose thresholds,
    #  "columns": {our field: column}, "comment_columns": {our field: column}}: see sources/table.py
    config.tables = ()
    config.memorability = ()  # {"json": LAMBDA files, "videos": folder, "text_only": bool}
    config.instruct = ()  # {"json": files, "images": folder}: LLaVA conversations
    config.captions = ()  # {"json": files, "images": folder}: LLaVA image-caption pairs
    config.chat = ()  # {"json": files}: text-only LLaVA conversations, for the decoder alone
    config.text = ()  # {"jsonl": files}: lines with "text"
    if given.raw:
        fill(config, Path(str(given.raw)))

    config.heldout_fraction = given.heldout  # by a stable hash of the post, image or text
    config.seed = given.seed  # the order of the records, and who is dealt whose behaviour in `shuffled`
    # also likes, comments, reactions, replay, titles: see behavior/arms.py
    config.arms = ("behavior", "ad", "shuffled")
    config.behaviors = (
        "likes",
        "comments",
    )  # what `behavior` and `shuffled` tell; the paper's main model: no replay
    config.template = ""  # a name in behavior/templates.py for all sources, "" for those of `templates`
    config.templates = ConfigDict(
        {"reddit": "reddit_image_v1", "youtube": "youtube_thumbnail_v1", "other": "image_behavior_v1"}
    )
    # What is shown of a post whose film (ID.mp4, ...) lies among its media: "thumbnail", as of all others; "frames", so
    # many a second; "scenes", the frame of least motion of each scene.
    config.video = ConfigDict({"show": "thumbnail", "fps": 1.0, "most": 600, "side": 336})
    config.video_templates = ConfigDict(
        {"reddit": "reddit_video_v1", "youtube": "video_listing_v1", "other": "video_listing_v1"}
    )
    config.scenes = ""  # a file of `jaxllava verbalise`: its scenes are told in place of the posts' own
    config.scenes_by = "sha256"  # of the post's medium; "name": by file name without suffix, or the post's id
    config.max_asr_words = 200  # of what is said in a video; the question after it is always whole
    config.max_image_side = 0  # larger images are stored again with this side, in pixels; 0: all as they came

    # Thresholds of the funnel with the paper's values; input_pipeline/behavior/rules.py explains each.
    config.clean = ConfigDict({name: value for name, value in asdict(Rules()).items() if name not in SOURCES})
    for source in SOURCES:
        config.clean[source] = asdict(getattr(Rules(), source))

    # Broken input beyond this share of all records, or of one file's, stops the run.
    config.max_bad_fraction = 0.05

    # Beam: runner '' is this machine with so many processes; else a runner's name and its flags.
    config.beam = ConfigDict({"runner": "", "flags": (), "workers": 1})
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
