"""METEOR 1.5 of a corpus, by the Java program in pycocoevalcap; the interval from its counts.

The program gives each item's counts (matches by stage, chunks, lengths) and scores a corpus by their sums. Its
formula (Denkowski and Lavie 2014) is repeated here so that 2,000 resamples need no Java; that it is the same one
is checked against the program's own score at every call.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate

# English, task "rank": the program's default.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_STAGES = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase
_COUNTS = 23


class Unavailable(Exception):
    """METEOR cannot be computed here; the message says why."""


def corpus(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Estimate:
    """Returns METEOR in percent, of answers and references that are tokenized.

    Raises `Unavailable` where the program does not run or does not speak as version 1.5 does.
    """
    counts, official = _run(answers, references)
    # The program takes an item that is one chunk from end to end for unfragmented: it adds no chunk to the sum.
    whole = (counts[:, 20] == 1) & (counts[:, 21] == counts[:, 0]) & (counts[:, 22] == counts[:, 1])
    counts[whole, 20] = 0
    found = metrics.estimate(
        _score, {f"count {at}": column for at, column in enumerate(counts.T)}, name="METEOR"
    )
    if abs(found.mean - 100 * official) > 1e-4:
        raise Unavailable(f"the program scores {100 * official:.4f}, its counts give {found.mean:.4f}")
    return found


def _run(answers: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[Array, float]:
    """Returns the counts of each item, [n, 23], and the program's score of the corpus in [0, 1]."""
    from pycocoevalcap.meteor import meteor

    command = ["java", "-Dfile.encoding=UTF-8", "-Xmx2G", "-jar", meteor.METEOR_JAR]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        lines, official = _talk(command, Path(meteor.__file__).parent, answers, references)
        counts = np.array([line.split() for line in lines], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{meteor.METEOR_JAR}: {error}") from None
    if counts.shape != (len(answers), _COUNTS):
        raise Unavailable(f"{meteor.METEOR_JAR} gave counts of shape {counts.shape} for {len(answers)} items")
    return counts, official


def _talk(
    command: Sequence[str], folder: Path, answers: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], float]:
    """Asks one process for the counts of every item, then for the score of all: (lines of counts, score)."""
    lines = []
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaints,
        subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            encoding="utf-8",
        ) as process,
    ):
        assert process.stdin is not None and process.stdout is not None
        try:
            for answer, own in zip(answers, references, strict=True):
                process.stdin.write(" ||| ".join(["SCORE", *map(_field, own), _field(answer)]) + "\n")
                process.stdin.flush()  # one at a time: neither side's pipe can fill up
                lines.append(process.stdout.readline().strip())
            process.stdin.write(" ||| ".join(["EVAL", *lines]) + "\n")
            process.stdin.close()
            said = process.stdout.read().split()  # a score an item, then the corpus's
        except BrokenPipeError:
            said = []
        if len(said) != len(answers) + 1:
            process.kill()
            complaints.seek(0)
            raise OSError(" ".join(complaints.read().split())[-200:] or "the program ended early")
        return lines, float(said[-1])


def _field(tokens: str) -> str:
    return " ".join(tokens.replace("|||", "").split())


def _score(*columns: Array) -> Array:
    """METEOR in percent from counts [..., n] each.

    The counts: lengths of answer and reference, their function words; per stage the matched content words of
    answer and reference and the matched function words of both; chunks, and all matched words of both.
    """
    sums = [column.sum(axis=-1) for column in columns]
    length, function = sums[0:2], sums[2:4]
    chunks, matched = sums[20], sums[21:23]
    sides = []
    for side in (0, 1):  # precision over the answer's words, recall over the reference's
        content = sum(weight * sums[4 + 4 * at + side] for at, weight in enumerate(_STAGES))
        functional = sum(weight * sums[6 + 4 * at + side] for at, weight in enumerate(_STAGES))
        whole = _DELTA * (length[side] - function[side]) + (1 - _DELTA) * function[side]
        part = _DELTA * content + (1 - _DELTA) * functional
        sides.append(part / np.where(whole > 0, whole, 1.0))
    precision, recall = sides
    divisor = _ALPHA * precision + (1 - _ALPHA) * recall
    mean = precision * recall / np.where(divisor > 0, divisor, 1.0)
    words = (matched[0] + matched[1]) / 2
    fragmented = chunks / np.where(words > 0, words, 1.0)
    return 100 * mean * (1 - _GAMMA * fragmented**_BETA)
