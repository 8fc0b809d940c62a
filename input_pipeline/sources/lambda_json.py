"""Reads LAMBDA, advertisements and how well people remember them, as its authors' repository has it.

Two layouts: `*_q.json` [{video_name, question, question_id}] with the answers in `*_a.json` [{answer, question_id}]
beside it, and `lambda_*.json` [{id, conversation, score}]. The answers are scores of "00" to "99" (behaviour
simulation), or descriptions of the ad (content simulation).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.sources import fields, lines, llava_json, media
from input_pipeline.sources.llava_json import IMAGE, VIDEO, Sample
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Turn

_SCORE = re.compile(r"[0-9]{1,2}", re.ASCII)
_QUESTIONS = re.compile(r"_q(?=\.[^/]*$)")  # bs_test_q.json, bs_test_q.part.json, bs_test_q.json.gz
_ANSWERS = re.compile(r"_a(?=\.[^/]*$)")
_MARK = re.compile(f"{IMAGE}|{VIDEO}")
_RECORD = re.compile(r'\{\s*"(?:id|question_id|video_name|question|answer|score)"\s*:')


def read(
    path: str | Path,
    root: str | Path,
    text_only: bool = False,
    library: media.Library | None = None,
) -> Iterator[Sample | Rejected]:
    """Yields a Sample per question that has an answer, or per conversation.

    meta["task"] is "memorability" where the answer is a score and "content" where it is not;
    meta["memorability"] is the score, a whole number from 0 to 99, where one is known. The answers are held in
    memory, the questions are streamed. Questions and answers that have no other half are Rejected.

    Args:
        path: a `*_q` file, whose `*_a` file lies beside it, or a file of conversations.
        root: where the paths of the videos (.npy of frames, or films) begin; a video that lies in it under its
            mere file name is found too.
        text_only: what becomes of a record whose video is missing. True: it loses its `<image>`, keeps the
            description in words, and meta has {"video": name, "video_missing": true}. False: it is Rejected with
            kind 'gone'.
        library: searched by file name for what is not under root.

    Raises:
        UserError: a file is missing, or `path` is a file of answers.
    """
    path = Path(path)
    if _QUESTIONS.search(path.name):
        answers = path.with_name(_QUESTIONS.sub("_a", path.name))
        if not answers.is_file():
            raise UserError(f"{path}: its answers are missing; they should be in {answers}")
        return _pairs(path, answers, Path(root), text_only, library)
    questions = path.with_name(_ANSWERS.sub("_q", path.name))
    if questions != path and questions.is_file():
        raise UserError(f"{path}: holds answers; give the file of the questions, {questions}")
    return _conversations(path, Path(root), text_only, library)


def _conversations(
    path: Path, root: Path, text_only: bool, library: media.Library | None
) -> Iterator[Sample | Rejected]:
    for item in lines.read_list(path, _RECORD):
        yield item if isinstance(item, Rejected) else _sample(*item, root, text_only, library)


def _pairs(
    path: Path, answers_path: Path, root: Path, text_only: bool, library: media.Library | None
) -> Iterator[Sample | Rejected]:
    answers: dict[str, tuple[str, Any]] = {}
    for item in _by_question(answers_path):
        if isinstance(item, Rejected):
            yield item
        else:
            key, origin, row = item
            answers[key] = (origin, row.get("answer"))
    for item in _by_question(path):
        if isinstance(item, Rejected):
            yield item
            continue
        key, origin, row = item
        if key not in answers:
            yield Rejected(origin, key, "fields", "question without an answer")
            continue
        answer = answers.pop(key)[1]
        if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer <= 99:
            answer = f"{answer:02d}"  # scores are two digits
        turns = [{"from": "human", "value": row.get("question")}, {"from": "gpt", "value": answer}]
        record = {"id": key, "video": row.get("video_name"), "conversations": turns}
        yield _sample(origin, record, root, text_only, library)
    for key, (origin, _) in answers.items():
        yield Rejected(origin, key, "fields", "answer without a question")


def _by_question(path: Path) -> Iterator[tuple[str, str, dict[str, Any]] | Rejected]:
    """Yields (question_id, origin, object) per element."""
    known: set[str] = set()
    for item in lines.read_list(path, _RECORD):
        if isinstance(item, Rejected):
            yield item
            continue
        origin, row = item
        key = (fields.text(row, "question_id") or "").strip() if isinstance(row, dict) else ""
        if not isinstance(row, dict):
            yield Rejected(origin, "", "read", "element is not an object")
        elif not key:
            yield Rejected(origin, "", "fields", "no question_id")
        elif key in known:
            yield Rejected(origin, key, "fields", "question_id is given twice")
        else:
            known.add(key)
            yield key, origin, row


def _sample(
    origin: str, row: Any, root: Path, text_only: bool, library: media.Library | None
) -> Sample | Rejected:
    found = llava_json.sample(origin, row, root, library)
    video = row.get("video") if isinstance(row, dict) else None
    meta: dict[str, Any] = {}
    if isinstance(found, Rejected) and found.kind == "gone" and isinstance(video, str):
        name = PurePosixPath(video).name
        if name != video and llava_json.locate(root, name, is_video=True):
            found = llava_json.sample(origin, row | {"video": name}, root, library)
        elif text_only and row.get("image") is None:
            bare = llava_json.sample(origin, row | {"video": None, "conversations": _unmarked(row)}, root)
            if isinstance(bare, Sample):  # a question may be nothing but its mark
                found, meta = bare, {"video": fields.as_text(video), "video_missing": True}
    if isinstance(found, Rejected):
        return found
    answer = found.conversations[-1].text.strip()
    is_score = _SCORE.fullmatch(answer) is not None
    score = int(answer) if is_score else fields.integer(row, "score")
    if score is not None and 0 <= score <= 99:
        meta["memorability"] = score
    meta["task"] = "memorability" if is_score else "content"
    return replace(found, meta={**found.meta, **meta})


def _unmarked(row: dict[str, Any]) -> list[dict[str, str]]:
    """The turns of a record, which are sound, without the marks of media."""
    return [
        {"from": turn.role, "value": _MARK.sub("", turn.text).strip() if turn.role == "human" else turn.text}
        for turn in llava_json.turns_of(row)
        if isinstance(turn, Turn)
    ]
