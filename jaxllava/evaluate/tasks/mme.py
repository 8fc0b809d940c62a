"""MME: 14 subtasks, each picture with one question to be answered yes and one to be answered no.

The release is a folder of subtasks under MME/MME_Benchmark_release_version (its later form has
MME_Benchmark in between). A subtask holds NNN.txt beside NNN.jpg or .png, or both apart in
`questions_answers_YN/` and `images/`; a line of a .txt is question, tab, Yes or No, and a question ends in
"Please answer yes or no.". LLaVA's eval.zip adds `llava_mme.jsonl`, which puts its own line in place of
that; its question_id is the picture's path, for both questions. Learned from LLaVA's
`convert_answer_to_mme.py`, which writes what MME's `calculation.py` reads: a file a subtask, lines of file,
question, truth and answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import yes_no
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks.llava_layout import (
    LOADER_TOKENS,
    SHORT,
    Asked,
    existing,
    numbered_ids,
    question_file,
    said,
    short,
    write_text,
)
from jaxllava.evaluate.tasks.llava_reported import zero_shot
from jaxllava.evaluate.tasks.task import Generate, Item, Rejected, Task

_RELEASE = "MME_Benchmark_release_version"
_YES_NO = "Please answer yes or no."
_PICTURES = (".jpg", ".png", ".jpeg")
SUBTASKS = (*yes_no.PERCEPTION, *yes_no.COGNITION)

# (subtask, NNN.txt, bare question) -> (question as the release has it, yes or no)
Truths = dict[tuple[str, str, str], tuple[str, str]]


def load(folder: Path, split: str) -> Iterator[Item | Rejected]:
    root = _release(folder)
    truths: Truths = {}
    asked: list[Item | Rejected] = []
    new_id = numbered_ids()
    for subtask in SUBTASKS:
        if (root / subtask).is_dir():
            asked += _subtask(root, subtask, truths, new_id)
    if not asked:
        raise UserError(
            f"{root}: has no folder of a subtask ({', '.join(SUBTASKS[:3])}, ...); unpack MME there"
        )
    path = folder / "llava_mme.jsonl"
    if not path.exists():
        yield from asked
        return
    yield from (one for one in asked if isinstance(one, Rejected))
    new_id = numbered_ids()
    for one in question_file(path):
        yield one if isinstance(one, Rejected) else _with_truth(root, one, truths, new_id(str(one.id)))


def _release(folder: Path) -> Path:
    for name in (f"{_RELEASE}/MME_Benchmark", _RELEASE, "MME_Benchmark"):
        if any((folder / name / subtask).is_dir() for subtask in SUBTASKS):
            return folder / name
    return folder / _RELEASE


def _bare(question: str) -> str:
    return " ".join(question.replace(SHORT, "").replace(_YES_NO, "").split())


def _subtask(root: Path, subtask: str, truths: Truths, new_id) -> Iterator[Item | Rejected]:
    """The questions of a subtask's files, and their truths into `truths`."""
    folder = root / subtask
    apart = (folder / "images").is_dir()
    texts = folder / "questions_answers_YN" if apart else folder
    pictures = folder / "images" if apart else folder
    for path in sorted(texts.glob("*.txt")):
        for number, line in enumerate(path.read_text("utf-8-sig", errors="replace").splitlines(), 1):
            if not line.strip():
                continue
            question, _, answer = line.strip().rpartition("\t")
            truth = answer.strip().lower()
            if not question.strip() or truth not in ("yes", "no"):
                yield Rejected(f"{path}:{number}", "not a question, a tab, and Yes or No")
                continue
            truths[subtask, path.name, _bare(question)] = (question, truth)
            picture = existing(pictures, *(path.stem + suffix for suffix in _PICTURES))
            image = picture.relative_to(root).as_posix()
            prompt = short(question.replace(_YES_NO, "").strip())
            yield _item(new_id(image), prompt, image, picture, subtask, path.name, question, truth)


def _with_truth(root: Path, asked: Asked, truths: Truths, id: str) -> Item | Rejected:
    subtask, stem = asked.image.split("/")[0], asked.image.split("/")[-1].split(".")[0]
    if subtask not in SUBTASKS:
        return Rejected(asked.where, "no such subtask")
    found = truths.get((subtask, f"{stem}.txt", _bare(asked.text)))
    if found is None:
        return Rejected(asked.where, "the release has no such question")
    name = asked.image.split("/")[-1]
    # eval.zip has the pictures of five subtasks in images/, as the first release; the later one has them flat.
    picture = existing(root, asked.image, f"{subtask}/{name}", f"{subtask}/images/{name}")
    return _item(id, asked.text, asked.image, picture, subtask, f"{stem}.txt", *found)


def _item(
    id: str, prompt: str, image: str, picture: Path, subtask: str, file: str, question: str, truth: str
) -> Item:
    meta = {
        "category": subtask,
        "image": image,
        "group": image,  # its two questions count together
        "file": file,
        "question": question,
        "line": {"question_id": image},
    }
    return Item(id, prompt, (picture,), truth, meta=meta)


def submit(rows: Sequence[Answered], folder: Path) -> Path:
    """mme/SUBTASK.txt, as `calculation.py` reads them: lines of file, question, Yes or No, and the answer."""
    for subtask in {row.meta["category"]: None for row in rows}:
        lines = [
            "\t".join(
                (
                    row.meta["file"],
                    row.meta["question"],
                    str(row.truth).capitalize(),
                    " ".join(said(row).split()),
                )
            )
            for row in rows
            if row.meta["category"] == subtask
        ]
        write_text(folder / "mme", f"{subtask}.txt", "\n".join(lines) + "\n")
    return folder / "mme"


TASKS: tuple[Task, ...] = (
    Task(
        name="mme",
        family="llava",
        title="MME",
        metric="perception, points of 2000",
        folder="MME",
        needs={"test": ("MME_Benchmark*/**/*.txt",)},
        get="MME_Benchmark_release_version from https://github.com/BradyFU/Awesome-Multimodal-Large-Language-Models/tree/"
        "Evaluation (on request to its authors; research only) as MME/MME_Benchmark_release_version.",
        load=load,
        protocol=Generate(LOADER_TOKENS),
        score=yes_no.mme,
        submit=submit,
        tested="fixture",
        reported=zero_shot("mme", "perception; cognition of LLaVA-1.6: 332, 326, 321 and 397 in this order"),
        note="LLaVA's prompt, in place of MME's own 'Please answer yes or no.'. Two identical runs of LLaVA-1.5 may "
        "differ by 20 points (issue 864 of haotian-liu/LLaVA).",
    ),
)
