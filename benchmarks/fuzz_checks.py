"""What must hold of all that a reader yields, whatever its file looks like."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.fuzz_kind import Kind, Wrong
from input_pipeline.behavior import statements, templates
from input_pipeline.instruct.captions import Caption
from input_pipeline.instruct.symbolic import Symbolic
from input_pipeline.sources.lines import Passed
from input_pipeline.sources.llava_json import Sample
from input_pipeline.sources.rejected import Rejected
from input_pipeline.sources.text import Document
from input_pipeline.types import Comment, Post, Reply

TEMPLATES = (
    "image_behavior_v1", "reddit_image_v1", "youtube_thumbnail_v1", "video_listing_v1", "reddit_video_v1", "title_v1",
    "video_scenes_in_question_v0",
)  # fmt: skip
TOKENS = (
    "</s>", "<s>", "###", "USER:", "ASSISTANT:", "<|", "[INST]", "[/INST]", "<<", "<unk>", "<video>", '\n2. "\n',
)  # fmt: skip
MOST_REASONS = 40  # of one reader


@dataclass
class Case:
    """One file, and what is to be expected of it."""

    kind: Kind
    paths: list[Path]  # the reader is given the first
    size: int  # records
    account: Callable[[list[Any]], tuple[int, int]] | None  # items -> (records, those accounted for)
    most_bad: int | None  # how many records may be broken
    is_cut: bool  # a compressed file without its end
    said: set[str]  # words of captions that must come through
    there: set[str]  # names of sound records


@dataclass
class Tally:
    """What became of one reader's records."""

    records: int = 0
    accepted: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    slowest_file: float = 0.0  # seconds
    failures: list[str] = field(default_factory=list)


def check(case: Case, items: list[Any], number: int, tally: Tally) -> None:
    """Raises Wrong, or whatever writing and reading again raises."""
    if case.account is not None:
        wanted, got = case.account([one for item in items for one in [item] * case.kind.weight(item)])
        if wanted != got:
            raise Wrong(f"{wanted} records, but {got} yielded or rejected")
    bad = [i for i in items if isinstance(i, Rejected) and i.kind == "bad"]
    if case.most_bad is not None and len(bad) > case.most_bad:
        raise Wrong(f"{len(bad)} records rejected, but only {case.most_bad} places changed: {bad[0]}")
    if case.is_cut and not any("broken" in i.reason or "cannot be read" in i.reason for i in bad):
        raise Wrong("a cut file, and nobody says so")
    if missing := case.said.difference(*(i.asr.split() for i in items if isinstance(i, Post))):
        raise Wrong(f"said, but not heard: {missing}")
    accepted = [i for i in items if not isinstance(i, Rejected | Passed)]
    if gone := case.there.difference(map(case.kind.told, accepted) if case.there else ()):
        raise Wrong(f"sound, but not there: {sorted(gone)[:5]}")
    comments: list[Comment] = []
    for index, item in enumerate(items):
        if isinstance(item, Passed):
            tally.rejected[item.reason] += item.count
            continue
        _writable(item)
        if isinstance(item, Rejected):
            tally.rejected[item.reason] += 1
            if len(tally.rejected) > MOST_REASONS or not item.origin.rpartition(":")[0]:
                raise Wrong(f"too many reasons to be counted, or no origin: {item}")
            continue
        tally.accepted += 1
        if isinstance(item, Post):
            _told(item, TEMPLATES[(number + index) % len(TEMPLATES)])
        elif isinstance(item, Reply):
            comments.append(item.comment)
        elif isinstance(item, Sample):
            human = "".join(turn.text for turn in item.conversations if turn.role == "human")
            answers = "".join(turn.text for turn in item.conversations if turn.role == "gpt")
            if human.count("<image>") != len(item.images) + len(item.videos) or "<image>" in answers:
                raise Wrong(f"marks and media differ: {item}")
    for start in range(0, len(comments), 5):
        _told(
            Post("p", "other", "Title", "", comments=tuple(comments[start : start + 5])),
            TEMPLATES[number % 4],
        )


_ENCODE, _ENCODE_JSON = msgspec.msgpack.encode, msgspec.json.encode
_DECODERS = {kind: msgspec.json.Decoder(kind).decode for kind in (Post, Reply, Rejected, Sample, Document)}


def _writable(item: Any) -> None:
    if type(item) not in _DECODERS:
        # What is no record of `prepare`'s sources.
        json.dumps(msgspec.to_builtins(item), allow_nan=False, ensure_ascii=False).encode()
        if isinstance(item, Symbolic | Caption) and not item.origin.rpartition(":")[0]:
            raise Wrong(f"nobody can tell what it was read from: {item}")
        return
    _ENCODE(item)
    # JSON has neither NaN nor infinity: what held one comes back as something else, or not at all.
    if _DECODERS[type(item)](_ENCODE_JSON(item)) != item:
        raise Wrong(f"changes on being written: {item}")


def _told(post: Post, name: str) -> None:
    template = templates.get(name)
    known = statements.facts(msgspec.structs.replace(post, content="The tone is warm."))
    written = statements.write(template, known)
    if written is None:
        return
    question, answer = written.question, written.answer
    for ask, tell in _forms(question, answer):
        if ask.count("<image>") != 1 or "<image>" in tell:
            raise Wrong(f"{name}: marks of images: {ask!r} {tell!r}")
        told = ask + tell.replace(">>> BEHAVIOR <<<", "", 1)
        for token in TOKENS:
            if token in told:
                raise Wrong(f"{name}: {token!r} in {told!r}")


def _forms(question: str, answer: str) -> Iterator[tuple[str, str]]:
    yield question, answer
    if not (question.isascii() and answer.isascii()):
        yield unicodedata.normalize("NFKC", question), unicodedata.normalize("NFKC", answer)
