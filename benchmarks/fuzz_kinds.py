"""The readers under test, each with how its files are made and how its records are counted.

Those of `prepare`'s sources are here, the others in `fuzz_instruct`, `fuzz_teacher` and `fuzz_judging`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import fuzz_files as files
from benchmarks import fuzz_instruct, fuzz_judging, fuzz_teacher
from benchmarks import fuzz_records as draw
from benchmarks.fuzz_damage import NESTED
from benchmarks.fuzz_kind import Kind
from input_pipeline.sources import (
    blift,
    captions,
    content_corpus,
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
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post


def _read_track(path: Path, library: media.Library) -> Iterator[Post | Rejected]:
    try:
        words = captions.transcript(captions.read(path))
    except captions.CaptionsError as error:
        yield Rejected("file:1", "", "captions", str(error))
    else:
        yield Post("v", "youtube", "Title", "file:1", asr=words)


def _read_table(side: str, path: Path, library: media.Library) -> Iterator[Any]:
    if side == "comments":
        return table.read_comments(path, table.Columns())
    return table.read_posts(path, table.Columns(), library)


def _joined(records: list[Any], items: list[Any]) -> tuple[int, int]:
    """A question and its answer are two records that make one item."""
    alone = ("element is not an object", "no question_id", "question_id is given twice", "question without an answer",
             "answer without a question")  # fmt: skip
    single = sum(isinstance(item, Rejected) and item.reason in alone for item in items)
    return 2 * len(records), 2 * len(items) - single


def _comments_too(records: list[Any], items: list[Any]) -> tuple[int, int]:
    """A video, then all its comments: in the post, or rejected."""
    (record,) = records
    row = record if isinstance(record, dict) else {}
    meta = row.get("yt_meta_dict", {})
    row = (meta.get("info") if isinstance(meta, dict) else None) if "yt_meta_dict" in row else row
    rows = row.get("comments") if isinstance(row, dict) else None
    if isinstance(rows, str) and rows.startswith("@raw-"):
        rows = [None] if rows in NESTED else None
    first, *others = items
    if isinstance(first, Rejected):
        return 1, len(items)
    bad = sum(item.stage == "comment" and not item.origin.endswith(":1") for item in others)
    return 1 + (len(rows) if isinstance(rows, list) else 0), 1 + len(first.comments) + bad


_ANY_ANSWER = ("lines", "list", "one")
_KINDS = {
    "reddit_submissions": Kind(draw.submission, reddit.read_submissions),
    "reddit_comments": Kind(draw.comment, lambda path, library: reddit.read_comments(path, {"pics"})),
    "reddit_api": Kind(
        draw.thing,
        reddit_api.read,
        files.answers(lambda rows: {"kind": "Listing", "data": {"children": rows}}),
        _ANY_ANSWER,
        (),
        lambda record: [thing["data"] for thing in draw.things(record)],
        ("replies",),
        lambda record: len(draw.things(record)),
    ),
    "youtube_info": Kind(
        draw.info, youtube.read_video, files.as_video, account=_comments_too, size=1, packs=False, apart=False
    ),
    "video2dataset": Kind(
        draw.info_of_video2dataset,
        youtube.read_video,
        files.as_video,
        account=_comments_too,
        size=1,
        packs=False,
    ),
    "youtube_api_videos": Kind(
        draw.video_item, youtube_api.read, files.answers(lambda rows: {"items": rows}), _ANY_ANSWER, ()
    ),
    "youtube_api_threads": Kind(
        draw.thread,
        youtube_api.read,
        files.answers(lambda rows: {"items": rows}),
        _ANY_ANSWER,
        (),
        lambda record: [record["snippet"]["topLevelComment"], *record["replies"]["comments"]],
        count=lambda record: 1 + len(record["replies"]["comments"]),
    ),
    "blift_parquet": Kind(
        draw.blift_row, blift.read, files.as_table, ("parquet",), (), size=25, packs=False, apart=False
    ),
    "blift_jsonl": Kind(draw.blift_row, blift.read, layouts=("lines", "list")),
    "corpus_parquet": Kind(
        draw.corpus_row,
        content_corpus.read,
        files.as_table,
        ("parquet",),
        (),
        size=25,
        packs=False,
        apart=False,
    ),
    "corpus_jsonl": Kind(draw.corpus_row, content_corpus.read, layouts=("lines", "list")),
    "lambda_pairs": Kind(
        draw.pair,
        lambda path, library: lambda_json.read(path, path.parent / "root", text_only=True),
        files.pairs,
        ("list",),
        account=_joined,
        packs=False,
        apart=False,  # ids may be given twice
    ),
    "lambda_conversations": Kind(
        draw.lambda_conversation,
        lambda path, library: lambda_json.read(path, path.parent / "root"),
        layouts=("list",),
    ),
    "llava_json": Kind(
        draw.conversation,
        lambda path, library: llava_json.read(path, path.parent / "root", library),
        layouts=("list",),
    ),
    "text": Kind(draw.document, lambda path, library: text.read(path)),
}
for _layout in captions.FORMATS:
    _KINDS[f"captions_{_layout}"] = Kind(
        draw.track, _read_track, files.as_track, (_layout,), (), size=1, packs=False
    )
for _layout in ("csv", "tsv", "jsonl", "parquet"):
    for _side, _row in (("posts", draw.table_post), ("comments", draw.table_comment)):
        _KINDS[f"table_{_layout}_{_side}"] = Kind(
            _row,
            partial(_read_table, _side),
            files.as_table,
            ("lines" if _layout == "jsonl" else _layout,),
            size=25 if _layout == "parquet" else 50,
            packs=_layout != "parquet",
            apart=_layout != "parquet",
        )
_KINDS |= fuzz_instruct.KINDS | fuzz_teacher.KINDS | fuzz_judging.KINDS
KINDS: dict[str, Kind] = dict(sorted(_KINDS.items()))
