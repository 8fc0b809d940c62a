"""What a benchmark is here: a `Task` says where its data lies, how it asks, how an answer counts and what was
reported.

The tables of tasks are the other modules of this package; `tasks.TASKS` has them all. A task knows no model and no
device: `evaluate.ask` puts its questions to one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from jaxllava.candidates import one_begins_another
from jaxllava.evaluate.scoring.answered import Answered, Scored

SETTINGS = ("zero-shot", "zero-shot with story", "fine-tuned", "fine-tuned with story")


@dataclass(frozen=True)
class Clip:
    """A stretch of a video, in seconds."""

    path: Path
    start: float
    end: float


# A picture or a video by its path (a video is a file, a .npy of frames or a folder of them), a picture's
# encoded bytes, or a stretch of a video. Pictures become one image of the prompt, videos as many as `--frames` says.
Media = Path | bytes | Clip


@dataclass(frozen=True)
class Item:
    """One question.

    `id` is unique in its task. `prompt` holds no `<image>`: the media are put in front of it. `truth` is
    JSON-able, None where the release hides it: such items are answered and written out, and not scored.
    `candidates` are the item's own answers to choose from, where the task has none for all. `shots` are turns
    that come before the question (examples). `meta` is for the scorer and the submission: JSON-able.
    """

    id: str
    prompt: str
    media: tuple[Media, ...] = ()
    truth: Any = None
    candidates: tuple[str, ...] = ()
    shots: tuple[Turn, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejected:
    """A line of a release that cannot be asked. `where` is 'file:line'; `reason` names no record, so that it
    can be counted.
    """

    where: str
    reason: str


# --- protocols: how a model's answer is got ---


@dataclass(frozen=True)
class Choose:
    """The likeliest candidate: the sum of the log-probabilities of its tokens behind the prompt and `prefix`.

    Where every candidate is one token this is Behavior-LLaVA's "next-token logits over the task vocabulary"
    (section 4); of longer ones all tokens count, so that two with the same first token are told apart.
    """

    candidates: tuple[str, ...] = ()  # empty: each item has its own
    prefix: str = ""

    def answer(self, scores: np.ndarray, candidates: Sequence[str]) -> Any:
        return candidates[int(scores.argmax())]


@dataclass(frozen=True)
class Expect:
    """The mean of `values` under the probabilities of the candidates, one value each: a number where words are
    digits.
    """

    values: tuple[float, ...]
    candidates: tuple[str, ...]
    prefix: str = ""

    def answer(self, scores: np.ndarray, candidates: Sequence[str]) -> Any:
        weights = np.exp(scores - scores.max())
        return float(weights @ np.asarray(self.values) / weights.sum())


@dataclass(frozen=True)
class Rank:
    """The `top` likeliest candidates, best first (retrieval)."""

    top: int
    candidates: tuple[str, ...] = ()
    prefix: str = ""

    def answer(self, scores: np.ndarray, candidates: Sequence[str]) -> Any:
        order = np.argsort(-scores, kind="stable")
        return [candidates[i] for i in order[: self.top]]


@dataclass(frozen=True)
class Generate:
    """What the model writes. Temperature 0 is greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0


Protocol = Choose | Expect | Rank | Generate


@dataclass(frozen=True)
class Reported:
    """Headline figures that a paper reports, by system, in the unit of the task.

    `best` names the best supervised system among them. `note` tells of misprints that were put right.
    """

    figures: Mapping[str, float]
    best: str = ""
    note: str = ""


@dataclass(frozen=True)
class Finetune:
    """How a task is trained on: its training split as instruction records, and configs/finetune.py's numbers.

    The papers give neither epochs nor rates; these are ours unless the task's note says otherwise. `answer`
    makes the text that is taught from an item.
    """

    answer: Callable[[Item], str]
    split: str = "train"
    epochs: float = 3.0
    lr: float = 2e-5
    batch: int = 32


@dataclass(frozen=True)
class Task:
    """One line of the table.

    Args:
        name: on the command line; unique.
        family: a group that the command line takes as well.
        title: of the data set, for people.
        metric: the headline figure in words, with its unit ("top-1, %").
        higher: whether more is better.
        folder: under --data-root.
        split: the split that is scored.
        needs: of each split the files that `load` reads and the folders of its media, as patterns under
        `folder`. They decide
            whether the task is ready.
        get: what to get and from where, in a sentence or two, for those who have nothing yet.
        load: (folder, split) to items and what was rejected, in a stable order. It raises UserError where a
        file as a whole
            is not what it should be.
        protocol: how an answer is got.
        score: answers (with truths) to figures, the headline first. None: a judge is needed, which `judge` names.
        submit: writes answers in the benchmark's own submission format into a folder; returns the file.
        answers: tasks of one name here ask the very same questions, which are then asked once; "" shares with none.
        reported: figures by setting.
        size: how many questions the release's `split` has, where reviews of it are around; 0: not told.
        tested: "real data" where part of the real release went through loader and scorer in the tests, else
        "fixture".
        note: our readings of what the source leaves open.
    """

    name: str
    family: str
    title: str
    metric: str
    folder: str
    needs: Mapping[str, tuple[str, ...]]
    get: str
    load: Callable[[Path, str], Iterator[Item | Rejected]]
    protocol: Protocol
    score: Callable[[Sequence[Answered]], Scored] | None
    tested: Literal["real data", "fixture"]
    split: str = "test"
    higher: bool = True
    submit: Callable[[Sequence[Answered], Path], Path] | None = None
    judge: str = ""
    answers: str = ""
    reported: Mapping[str, Reported] = field(default_factory=dict)
    size: int = 0
    finetune: Finetune | None = None
    note: str = ""

    def missing(self, root: Path, split: str = "") -> list[str]:
        """The patterns of `needs` that nothing under root/folder matches; none: the task is ready.

        "a|b" asks for one or the other: releases are around in several layouts.
        """
        folder = root / self.folder
        found = lambda pattern: any(any(folder.glob(one)) for one in pattern.split("|"))
        return [
            pattern.replace("|", " or ") for pattern in self.needs[split or self.split] if not found(pattern)
        ]


@dataclass(frozen=True)
class Questions:
    """A split as it was read: the items in their order, and what was rejected, by reason with where it stood."""

    items: list[Item]
    rejected: dict[str, list[str]]

    @property
    def rejections(self) -> int:
        return sum(map(len, self.rejected.values()))


def read(task: Task, root: Path, split: str = "") -> Questions:
    """Reads a task's split under --data-root. Of items with one id the first stays, the others are rejected.

    Raises UserError where files are missing (it says what to get), where one is not what it should be, and
    where no item is left.
    """
    split = split or task.split
    if split not in task.needs:
        raise UserError(f"task {task.name}: no split {split!r}; it has {', '.join(task.needs)}")
    folder = root / task.folder
    if missing := task.missing(root, split):
        raise UserError(f"task {task.name}: {folder} lacks {', '.join(missing)}. {task.get}")
    items: dict[str, Item] = {}
    rejected: dict[str, list[str]] = {}
    for found in task.load(folder, split):
        if isinstance(found, Rejected):
            rejected.setdefault(found.reason, []).append(found.where)
        elif not _is_unicode(found):
            where = found.id.encode("utf-8", "backslashreplace").decode()
            rejected.setdefault("text that is not Unicode", []).append(where)
        elif found.id in items:
            rejected.setdefault("an id that an item before it has", []).append(found.id)
        else:
            items[found.id] = found
    if not items:
        reasons = Counter({reason: len(where) for reason, where in rejected.items()}).most_common(3)
        why = "; ".join(f"{count} {reason} (first: {rejected[reason][0]})" for reason, count in reasons)
        raise UserError(
            f"task {task.name}: no question in {folder}, split {split}{': ' + why if why else ''}"
        )
    return Questions(list(items.values()), rejected)


def _is_unicode(item: Item) -> bool:
    """Not so with half a surrogate pair, as broken JSON and names of files in other encodings have them."""
    texts = (item.id, item.prompt, *item.candidates, *(turn.text for turn in item.shots))
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def candidates_of(task: Task, item: Item) -> tuple[str, ...]:
    """The answers to choose from; none where the task generates."""
    if isinstance(task.protocol, Generate):
        return ()
    return item.candidates or task.protocol.candidates


def need_ends(task: Task, items: Sequence[Item]) -> bool:
    """Whether the end of an answer has to count with each candidate, for all items alike.

    It has to where one candidate begins another ("1" and "10"): the shorter one could then never be the less likely.
    """
    return any(map(one_begins_another, {candidates_of(task, item) for item in items}))
