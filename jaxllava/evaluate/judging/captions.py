"""Dense captions, judged with the picture: correctness, detail and quality of 1 to 10 (Behavior-LLaVA section 4).

The paper has three prompts, one a criterion, each a role, the criterion and a rubric that ends in a score. The words
here are ours, after what its rubrics ask for; so figures are comparable with one another, not with the paper's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxllava.evaluate.judging import spread
from jaxllava.evaluate.judging.protocol import TEMPERATURE, Ask, Case, Judge, Judged, Plan, text_of
from jaxllava.evaluate.metrics import Array
from jaxllava.evaluate.scoring.answered import Answered, Problems
from jaxllava.evaluate.scoring.reviews import CRITERIA, caption_score
from jaxllava.teacher.messages import Answer, Message, Request

SYSTEM = "You are a strict critic of pictures and of the captions that are written for them."
RUBRICS = {
    "correctness": "how correct it is: whether it names the main subjects and objects, and whether it tells what they "
    "do, how they interact and where they stand to one another as the picture shows it. What it says and the picture "
    "does not show counts against it",
    "detail": "how detailed it is: whether it tells colours, shapes, textures and sizes, whether it covers small "
    "things as well as prominent ones, and how specific it is",
    "quality": "how well it is written: whether it is concise and yet descriptive, whether it engages its reader and "
    "calls up a clear picture, and whether it shows insight or imagination",
}
MAX_TOKENS = 512
_SENT = ("JPEG", "PNG", "WEBP", "GIF")  # what endpoints take; anything else is sent as PNG


def _key(case: Case, row: Answered, criterion: str, draw: int) -> str:
    return f"{case.task.name}/{row.id}/{criterion}/{draw}"


def _question(row: Answered, criterion: str) -> str:
    return (
        f"Below is a caption of this picture. Judge one thing alone: {RUBRICS[criterion]}.\n\n"
        f"Caption:\n{row.answer or ''}\n\n"
        'Explain your judgement in a few sentences, then end with a line "Score: N", where N is a whole number from '
        "1 (low) to 10 (high)."
    )


def picture(path: Path) -> bytes:
    """An encoded picture as it can be sent. Raises OSError where the file is none."""
    data = path.read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.format in _SENT:
            return data
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
        return buffer.getvalue()


def _pictured(case: Case, problems: Problems) -> Iterator[tuple[Answered, bytes]]:
    """One picture at a time: all of them at once may not fit into memory."""
    for row in case.rows:
        try:
            yield row, picture(Path(row.meta["image"]))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            problems.note(f"its picture cannot be read ({type(error).__name__}): not judged", row.id)


def requests(case: Case, plan: Plan, problems: Problems | None = None) -> Iterator[Request]:
    for row, image in _pictured(case, Problems() if problems is None else problems):
        for criterion in CRITERIA:
            messages = (Message("system", SYSTEM), Message("user", _question(row, criterion), (image,)))
            for draw in range(plan.repeats):
                key = _key(case, row, criterion, draw)
                yield Request(key, messages, MAX_TOKENS, TEMPERATURE, draw=draw)


def judge(case: Case, ask: Ask, plan: Plan) -> Judged:
    problems = Problems()
    said = ask(requests(case, plan, problems))
    scores = np.full((len(CRITERIA), len(case.rows), plan.repeats), np.nan)
    reviews = []
    for number, row in enumerate(case.rows):
        for at, criterion in enumerate(CRITERIA):
            for draw in range(plan.repeats):
                if (answer := said.get(_key(case, row, criterion, draw))) is None:
                    continue
                text = text_of(answer, row.id, problems)
                if text is None:
                    continue
                is_cut = isinstance(answer, Answer) and answer.finish == "length"
                score = caption_score(text, is_cut)
                reviews.append(
                    {"id": row.id, "criterion": criterion, "draw": draw, "score": score, "review": text}
                )
                if score is not None:
                    scores[at, number, draw] = score
                elif is_cut:
                    problems.note(f"the review of {criterion} was cut before its score: left out", row.id)
                else:
                    problems.note(f"no score from 1 to 10 in the review of {criterion}: left out", row.id)

    def average(*columns: Array) -> Array:
        return np.mean([spread.mean(column) for column in columns], axis=0)

    options = {"unit": "pictures", "seed": plan.seed}
    found = {"average": spread.estimate(average, list(scores), name="average", **options)}
    for at, criterion in enumerate(CRITERIA):
        found[criterion] = spread.estimate(spread.mean, [scores[at]], name=criterion, **options)
    files = {"reviews.jsonl": "".join(json.dumps(review) + "\n" for review in reviews)}
    return Judged(found, problems, files)


JUDGE = Judge(
    requests,
    judge,
    papers="GPT-4V",
    ours="the prompts are ours after the paper's rubrics, its pictures unknown",
)
