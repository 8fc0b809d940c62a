"""QVHighlights (Lei et al. 2021): the moments that answer a query, and how salient a video's clips are for it
(Behavior-LLaVA section 4, table "More behaviours").

The release (github.com/jayleicn/moment_detr): highlight_{train,val,test}_release.jsonl with qid, query,
duration, vid and, but for test, relevant_windows, relevant_clip_ids and saliency_scores (0 very bad to 4
very good, of three people) of 2 s clips; highlight_test_with_gt.jsonl has the truths of test. Videos:
videos/<vid>.

Moments are generated as text. For highlights every clip of 2 s is a question of its own, whose answer is the
mean of 0 to 4 under the digits' probabilities; the scorer and the submission put a query's clips together.
Both write lines of the official submission, {"qid", "query", "vid", "pred_relevant_windows"} and {...,
"pred_saliency_scores"}.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.partial import partial_of
from jaxllava.evaluate import media
from jaxllava.evaluate.scoring import moments
from jaxllava.evaluate.scoring.answered import Answered, Scored
from jaxllava.evaluate.tasks import releases
from jaxllava.evaluate.tasks.task import Clip, Expect, Finetune, Generate, Item, Rejected, Reported, Task

CLIP = 2  # seconds
_BELOW = ("", "data/", "annotations/")


def _queries(folder: Path, split: str) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    names = [f"highlight_{split}_with_gt.jsonl", f"highlight_{split}_release.jsonl"]
    path = releases.needed(folder, *(f"{below}{name}" for name in names for below in _BELOW))
    for found in releases.objects(path):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        duration = releases.number(row.get("duration"))
        if row.get("qid") is None or not row.get("vid"):
            yield Rejected(where, "no qid" if row.get("qid") is None else "no vid")
        elif not isinstance(row.get("query"), str) or not row["query"].strip():
            yield Rejected(where, "an empty query")
        elif duration is None or duration < CLIP:
            yield Rejected(where, "no duration of a clip or more")
        else:
            yield where, row | {"duration": duration, "split": split}


def _meta(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("qid", "query", "vid", "duration", "split")}


def load_moments(folder: Path, split: str) -> Iterator[Item | Rejected]:
    for found in _queries(folder, split):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        windows = row.get("relevant_windows")
        if windows is not None and not _is_table(windows, 2):
            yield Rejected(where, "relevant_windows are not pairs of seconds")
            continue
        prompt = (
            f'Which moments of this video of {row["duration"]:g} seconds show "{row["query"].strip()}"? '
            'Answer with their starts and ends in seconds, the best moment first, as in "12 - 30, 44 - 50".'
        )
        video = media.locate(folder / "videos", str(row["vid"]))
        yield Item(str(row["qid"]), prompt, (video,), windows, meta=_meta(row))


def load_highlights(folder: Path, split: str) -> Iterator[Item | Rejected]:
    for found in _queries(folder, split):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        people = _people(row)
        if isinstance(people, str):
            yield Rejected(where, people)
            continue
        prompt = (
            f'From 0 (very bad) to 4 (very good), how well does this clip show "{row["query"].strip()}"? '
            "Answer with one digit."
        )
        video = media.locate(folder / "videos", str(row["vid"]))
        for clip in range(int(row["duration"] / CLIP)):
            stretch = Clip(video, clip * CLIP, (clip + 1) * CLIP)
            truth = None if people is None else people.get(clip, [0, 0, 0])
            yield Item(
                f"{row['qid']}/{clip}",
                prompt,
                (stretch,),
                truth,
                meta=_meta(row) | {"clip": clip, "group": str(row["qid"])},
            )


def _people(row: dict[str, Any]) -> dict[int, list[float]] | str | None:
    """{clip: what three people gave it}; None where it is hidden, and what is wrong where it does not fit."""
    ids, scores = row.get("relevant_clip_ids"), row.get("saliency_scores")
    if ids is None and scores is None:
        return None
    if not _is_table(scores, 3) or not isinstance(ids, list) or not _is_table([ids], len(scores or ())):
        return "relevant_clip_ids and saliency_scores do not fit"
    return dict(zip(map(int, ids), scores or (), strict=True))


def _is_table(rows: Any, width: int) -> bool:
    lists = (
        isinstance(rows, list) and rows and all(isinstance(row, list) and len(row) == width for row in rows)
    )
    return bool(lists) and all(releases.number(cell) is not None for row in rows for cell in row)


def taught_moments(item: Item) -> str:
    return ", ".join(f"{start:g} - {end:g}" for start, end in item.truth)


def taught_salience(item: Item) -> str:
    return str(round(sum(item.truth) / len(item.truth)))


def by_query(rows: Sequence[Answered]) -> tuple[list[Answered], list[str]]:
    """Each query's clips as one row, {"pred_saliency_scores": [one per clip]}; and the queries that lack some."""
    queries: dict[Any, dict[int, Answered]] = {}
    for row in rows:
        queries.setdefault(row.meta["qid"], {})[row.meta["clip"]] = row
    found, incomplete = [], []
    for qid, clips in queries.items():
        meta = next(iter(clips.values())).meta
        count = int(meta["duration"] / CLIP)
        if set(clips) != set(range(count)) or any(row.answer is None for row in clips.values()):
            incomplete.append(str(qid))
            continue
        people = {clip: clips[clip].truth for clip in range(count) if any(clips[clip].truth or ())}
        truth = {
            "duration": meta["duration"],
            "relevant_clip_ids": list(people),
            "saliency_scores": list(people.values()),
        }
        answer = {"pred_saliency_scores": [clips[clip].answer for clip in range(count)]}
        found.append(Answered(str(qid), truth, answer, (), meta))
    return found, incomplete


def score_highlights(rows: Sequence[Answered]) -> Scored:
    """The official figures over queries; a query of which a clip has no answer is left out, and named."""
    queries, incomplete = by_query(rows)
    if not queries:
        raise UserError(
            f"highlight detection: none of the {len(incomplete)} queries has an answer for each clip"
        )
    empty = [row for row in queries if not row.truth["relevant_clip_ids"]]
    for row in empty:  # nobody finds any clip better than very bad: an index array cannot be empty
        row.truth.update(relevant_clip_ids=[0], saliency_scores=[[0, 0, 0]])
    scored = moments.highlight_detection(queries)
    missing = {"a clip without an answer: the query is left out": incomplete} if incomplete else {}
    return Scored(scored.figures, {**scored.problems, **missing})


def _submit(
    lines: Callable[[Sequence[Answered]], list[dict[str, Any]]],
) -> Callable[[Sequence[Answered], Path], Path]:
    def submit(rows: Sequence[Answered], folder: Path) -> Path:
        """Writes the official file of predictions, hl_<split>_submission.jsonl."""
        path = folder / f"hl_{rows[0].meta['split'] if rows else 'val'}_submission.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        partial = partial_of(path)
        partial.write_text("".join(json.dumps(line) + "\n" for line in lines(rows)), encoding="utf-8")
        return partial.replace(path)

    return submit


def _line(row: Answered, **predicted: Any) -> dict[str, Any]:
    return {"qid": row.meta["qid"], "query": row.meta["query"], "vid": row.meta["vid"], **predicted}


def _moment_lines(rows: Sequence[Answered]) -> list[dict[str, Any]]:
    return [_line(row, pred_relevant_windows=moments.windows_in(str(row.answer or ""))) for row in rows]


def _highlight_lines(rows: Sequence[Answered]) -> list[dict[str, Any]]:
    return [_line(row, **row.answer) for row in by_query(rows)[0]]


def _task(name: str, title: str, figures: tuple[float, ...], **rest: Any) -> Task:
    systems = (
        "LLaMA-VID",
        "Behavior-LLaVA",
        "Behavior-LLaVA + replay graphs",
        "Behavior-LLaVA + memorability",
    )
    files = lambda split: [
        f"{below}highlight_{split}_{kind}.jsonl" for below in _BELOW for kind in ("release", "with_gt")
    ]
    return Task(
        name=name,
        family="highlights",
        title=title,
        folder="qvhighlights",
        split="val",
        needs={split: ("|".join(files(split)), "videos/*") for split in ("train", "val", "test")},
        get="Get data/*.jsonl from https://github.com/jayleicn/moment_detr (CC BY-NC-SA 4.0) and "
        "https://nlp.cs.unc.edu/data/jielei/qvh/qvhilights_videos.tar.gz; put them and the videos (videos/) "
        "under qvhighlights/.",
        tested="fixture",
        reported={
            "zero-shot": Reported(
                dict(zip(systems, figures, strict=True)),
                note="The paper does not say on which split, nor whether the models were trained on "
                "QVHighlights.",
            )
        },
        **rest,
    )


TASKS: tuple[Task, ...] = (
    _task(
        "qvhighlights_moments",
        "QVHighlights: moment retrieval",
        (30.3, 33.1, 35.2, 34.9),
        metric="mAP over IoU 0.5 to 0.95, %",
        load=load_moments,
        protocol=Generate(128),
        score=moments.moment_retrieval,
        submit=_submit(_moment_lines),
        finetune=Finetune(taught_moments),
        note="Windows are read out of the text, the first named counts most.",
    ),
    _task(
        "qvhighlights_highlights",
        "QVHighlights: highlight detection",
        (32.4, 32.7, 34.9, 33.1),
        metric="mAP of very good clips, %",
        load=load_highlights,
        protocol=Expect((0.0, 1.0, 2.0, 3.0, 4.0), ("0", "1", "2", "3", "4")),
        score=score_highlights,
        submit=_submit(_highlight_lines),
        finetune=Finetune(taught_salience),
        note="A question for each clip of 2 s: 75 for a video of 150 s.",
    ),
)
