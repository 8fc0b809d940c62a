"""Questions on videos: MSVD-QA, MSRVTT-QA, ActivityNet-QA (Behavior-LLaVA section 4, table "Video QA").

The protocol of LLaMA-VID and Video-ChatGPT: the question alone, sampled answers (temperature 0.2, 1,024
tokens), and GPT-3.5 as the judge, who says yes or no and a score of 0 to 5. The judge reads what `submit`
writes: LLaMA-VID's pred.json, lines {"id", "question", "answer", "pred"}.

Layouts: the releases' lists, test_qa.json [{"id", "video_id", "question", "answer"}] with
youtube_mapping.txt for MSVD, whose videos are numbered there ("vid12"), and video_id 7010 for "video7010" of
MSRVTT; LLaMA-VID's copies of them, whose video_id is the name; MA-LMM's qa_test.json, {number: {"question",
"answer", "video"}}; ActivityNet-QA's test_q.json [{"video_name", "question", "question_id"}] and test_a.json
[{"answer", "question_id"}], whose videos are named v_<video_name>.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from input_pipeline.partial import partial_of
from jaxllava.evaluate import media
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import releases
from jaxllava.evaluate.tasks.task import Finetune, Generate, Item, Rejected, Reported, Task

JUDGE = "Video-ChatGPT's: yes/no and a score of 0 to 5"
_BELOW = ("", "annotation/", "annotations/", "dataset/")
_VIDEOS = ("videos", "video", "all_test", "YouTubeClips", "TrainValVideo", "TestVideo")


def _pairs(folder: Path, split: str) -> Iterator[tuple[str, dict[str, Any]] | Rejected]:
    """('file:place', {"id", "video", "question", "answer"}) of whichever layout is there."""
    one = [f"{below}{name}" for below in _BELOW for name in (f"{split}_qa.json", f"qa_{split}.json")]
    if path := releases.first_of(folder, *one):
        for found in releases.objects(path):
            if isinstance(found, Rejected):
                yield found
                continue
            where, row = found
            id = row.get("question_id", row.get("id"))
            video = row.get("video", row.get("video_id", row.get("video_name")))
            yield (
                where,
                {"id": id, "video": video, "question": row.get("question"), "answer": row.get("answer")},
            )
        return
    path = releases.needed(folder, *(f"{below}{split}_q.json" for below in _BELOW))
    answers: dict[str, Any] = {}
    for found in releases.objects(path.with_name(f"{split}_a.json")):
        if isinstance(found, Rejected):
            yield found
        else:
            answers[str(found[1].get("question_id"))] = found[1].get("answer")
    for found in releases.objects(path):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        id = row.get("question_id")
        answer = answers.get(str(id))
        yield (
            where,
            {"id": id, "video": row.get("video_name"), "question": row.get("question"), "answer": answer},
        )


def load(kind: str, folder: Path, split: str) -> Iterator[Item | Rejected]:
    root = next((folder / name for name in _VIDEOS if (folder / name).is_dir()), folder / "videos")
    name_of = _names(kind, folder)
    for found in _pairs(folder, split):
        if isinstance(found, Rejected):
            yield found
            continue
        where, row = found
        question, answer = row["question"], row["answer"]
        if row["id"] is None or row["video"] is None:
            yield Rejected(where, "no id" if row["id"] is None else "no video")
        elif not isinstance(question, str) or not question.strip():
            yield Rejected(where, "an empty question")
        elif not isinstance(answer, str) or not answer.strip():
            yield Rejected(where, "no answer")
        else:
            video = media.locate(root, name_of(row["video"]))
            meta = {"id": row["id"], "question": question}
            yield Item(str(row["id"]), question.strip(), (video,), answer.strip(), meta=meta)


def _names(kind: str, folder: Path) -> Any:
    """A function from a video's number or name in the lists to the name of its file."""
    if kind == "activitynet":
        return lambda video: str(video) if str(video).startswith("v_") else f"v_{video}"
    if kind == "msrvtt":
        return lambda video: f"video{video}" if str(video).isdigit() else str(video)
    names: dict[str, str] = {}
    if path := releases.first_of(folder, "youtube_mapping.txt", "*/youtube_mapping.txt"):
        for _, line in releases.lines(path):
            name, _, number = line.partition(" ")
            names[number.strip().removeprefix("vid")] = name
    return lambda video: names.get(str(video).removeprefix("vid"), str(video))


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """Writes LLaMA-VID's pred.json, which its and Video-ChatGPT's judges read."""
    path = folder / "pred.json"
    folder.mkdir(parents=True, exist_ok=True)
    partial_path = partial_of(path)
    with partial_path.open("w", encoding="utf-8") as file:
        for row in rows:
            line = {
                "id": row.meta["id"],
                "question": row.meta["question"],
                "answer": row.truth,
                "pred": row.answer or "",
            }
            file.write(json.dumps(line) + "\n")
    return partial_path.replace(path)


_SCORES = {
    "FrozenBiLM": ((32.2, None), (16.8, None), (24.7, None)),
    "VideoLLaMA": ((51.6, 2.5), (29.6, 1.8), (12.4, 1.1)),
    "LLaMA-Adapter": ((54.9, 3.1), (43.8, 2.7), (34.2, 2.7)),
    "VideoChat": ((56.3, 2.8), (45.0, 2.5), (26.5, 2.2)),
    "Video-ChatGPT": ((64.9, 3.3), (49.3, 2.8), (35.2, 2.7)),
    "BT-Adapter": ((67.5, 3.7), (57.0, 3.2), (45.7, 3.2)),
    "LLaMA-VID 7B": ((69.7, 3.7), (57.7, 3.2), (47.4, 3.3)),
    "LLaMA-VID": ((70.0, 3.7), (58.9, 3.3), (47.5, 3.3)),
    "Ad-LLaVA": ((70.0, 3.7), (59.0, 3.3), (47.4, 3.3)),
    "Behavior-LLaVA": ((70.1, 3.7), (59.2, 3.4), (47.5, 3.3)),
}


_NOTES = {
    "msrvtt": "The paper's ablation calls its MSRVTT-QA fine-tuned; LLaMA-VID's equal figure is zero-shot.",
    "activitynet": "LLaMA-VID's instruction data have videos of ActivityNet.",
}


_SIZES = {"msvd": 13_157, "msrvtt": 72_821, "activitynet": 8_000}  # questions of the test splits


def _task(kind: str, at: int, title: str, splits: tuple[str, ...], get: str) -> Task:
    names = lambda split: [f"{split}_qa.json", f"qa_{split}.json", f"{split}_q.json"]
    files = lambda split: "|".join(below + name for below in _BELOW for name in names(split))
    told = ", ".join(f"{system} {row[at][1]}" for system, row in _SCORES.items() if row[at][1] is not None)
    return Task(
        name=f"{kind}_qa",
        family="video_qa",
        title=title,
        metric="judged right, %",
        folder=f"{kind}_qa",
        needs={split: (files(split), "|".join(f"{name}/*" for name in _VIDEOS)) for split in splits},
        get=get,
        load=partial(load, kind),
        protocol=Generate(1024, temperature=0.2),
        score=None,
        judge=JUDGE,
        submit=submit,
        tested="real data",
        size=_SIZES[kind],
        reported={
            "zero-shot": Reported(
                {system: row[at][0] for system, row in _SCORES.items()},
                note=f"Mean scores of 0 to 5: {told}.",
            )
        },
        finetune=Finetune(lambda item: item.truth),
        note=_NOTES.get(kind, ""),
    )


_SPLITS = ("train", "val", "test")

TASKS: tuple[Task, ...] = (
    _task(
        "msvd",
        0,
        "MSVD-QA",
        _SPLITS,
        "Get MSVD-QA from https://github.com/xudejing/video-question-answering and the clips from "
        "https://www.cs.utexas.edu/users/ml/clamp/videoDescription (research only); put *_qa.json, "
        "youtube_mapping.txt and "
        "the clips (videos/) under msvd_qa/.",
    ),
    _task(
        "msrvtt",
        1,
        "MSRVTT-QA",
        _SPLITS,
        "Get MSRVTT-QA from https://github.com/xudejing/video-question-answering and the videos of MSR-VTT "
        "(research only); put "
        "*_qa.json and the videos (videos/) under msrvtt_qa/.",
    ),
    _task(
        "activitynet",
        2,
        "ActivityNet-QA",
        _SPLITS,
        "Get dataset/*_q.json and *_a.json from https://github.com/MILVLG/activitynet-qa (Apache-2.0) and "
        "the videos of "
        "ActivityNet (research only); put them and the videos (videos/v_*) under activitynet_qa/.",
    ),
)
