"""BLEU, ROUGE, METEOR and CIDEr: equal to the libraries' own scores, and BLEU by hand."""

from __future__ import annotations

import builtins
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from input_pipeline.errors import UserError
from jaxllava.evaluate.scoring import meteor, text
from jaxllava.evaluate.scoring.answered import Answered

ANSWERS = [
    "A man rides a brown horse on the beach.",
    "two dogs play",
    "nothing here",
    "the cats were running quickly through fields!",
    "",
    "a plate of food",
]
REFERENCES = [
    ["the man is riding a horse along the sandy beach", "a person on horseback, near the sea."],
    ["two dogs are playing in the snow"],
    ["a red bus drives down the street"],
    ["a cat runs fast through the field"],
    ["a b"],
    ["a plate of food"],
]
ROWS = [
    Answered(str(at), references if at else tuple(references), answer)
    for at, (answer, references) in enumerate(zip(ANSWERS, REFERENCES, strict=True))
]
with_java = pytest.mark.skipif(shutil.which("java") is None, reason="no java")


def test_sacrebleu_by_hand():
    # "the cat sat on a mat" to "the cat sat on the mat": 5/6, 3/5, 2/4, 1/3; no penalty for length.
    row = Answered("1", "the cat sat on the mat", "the cat sat on a mat")
    got = text.overlap([row]).figures
    assert got["sacreBLEU"].mean == pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # 5 of 6 words either way; the longest common subsequence has 5 words, too.
    assert got["rouge1"].mean == got["rougeL"].mean == pytest.approx(100 * 5 / 6)
    assert got["rouge2"].mean == pytest.approx(100 * 3 / 5)


def test_overlap_of_several_references_and_empty_answers():
    got = text.overlap(ROWS)
    streams = [[own[at] if at < len(own) else None for own in REFERENCES] for at in range(2)]
    assert got.figures["sacreBLEU"].mean == pytest.approx(BLEU().corpus_score(ANSWERS, streams).score)  # type: ignore
    assert next(iter(got.figures)) == "sacreBLEU"
    assert got.problems == {"empty answer: matches nothing": ["4"]}
    assert got.figures["sacreBLEU"].low < got.figures["sacreBLEU"].mean < got.figures["sacreBLEU"].high


@pytest.mark.parametrize(
    "answer", ["", "dog", "a b c", "the the the the the", "cat sat the on mat the and more words"]
)
def test_sacrebleu_of_poor_answers(answer):
    # Smoothing, missing orders, a penalty: the check inside `overlap` fails where ours is another figure.
    text.overlap([Answered("1", "the cat sat on the mat", answer)])


def test_the_interval_of_bleu_resamples_its_counts():
    # A resample's BLEU is that of the corpus it draws.
    bleu = BLEU()
    draw = [5, 0, 0, 3, 1, 5]
    columns = np.array(bleu._extract_corpus_statistics(ANSWERS, [[own[0] for own in REFERENCES]]), float).T
    got = text._sacrebleu(*columns[:, draw])
    want = bleu.corpus_score([ANSWERS[at] for at in draw], [[REFERENCES[at][0] for at in draw]]).score
    assert got == pytest.approx(want)


@with_java
def test_captions_are_pycocoevalcaps():
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    got = text.captions(ROWS)
    assert list(got.figures) == ["BLEU-4", "ROUGE-L", "METEOR", "CIDEr", "BLEU-1", "BLEU-2", "BLEU-3"]
    assert got.problems == {"empty answer: matches nothing": ["4"]}
    given = {
        0: ["a man rides a brown horse on the beach"],
        1: ["two dogs play"],
        2: ["nothing here"],
        3: ["the cats were running quickly through fields"],
        4: [""],
        5: ["a plate of food"],
    }
    wanted = {at: [one.replace(",", "").replace(".", "") for one in own] for at, own in enumerate(REFERENCES)}
    bleu, _ = Bleu(4).compute_score(wanted, given, verbose=0)
    for order in range(4):
        assert got.figures[f"BLEU-{order + 1}"].mean == pytest.approx(100 * bleu[order])
    assert got.figures["ROUGE-L"].mean == pytest.approx(100 * Rouge().compute_score(wanted, given)[0])
    assert got.figures["CIDEr"].mean == pytest.approx(100 * Cider().compute_score(wanted, given)[0])
    # METEOR of these six, as meteor-1.5.jar scores them; `corpus` itself compares with the program at every call.
    assert got.figures["METEOR"].mean == pytest.approx(24.0017175)
    assert got.figures["METEOR"].low < got.figures["METEOR"].mean < got.figures["METEOR"].high


@with_java
def test_tokens_keep_their_lines():
    texts = ["Don't stop.\nNow!", "", 'He said: "café (big)"', "a\u2028b"]
    # Brackets stay: the program's tokens are in lower case, pycocoevalcap's list of marks is not.
    assert text.ptb_tokens(texts) == ["do n't stop now", "", "he said café -lrb- big -rrb-", "a b"]


def test_meteor_by_hand():
    # The jar's counts of "two dogs play" against "two dogs are playing in the snow", and the paper's formula:
    # P = 1.45 / 1.75, R = 1.6 / 3.25 with content words at 0.75 and paraphrases at 0.6; 1 chunk of 3.5 words.
    counts = [3, 7, 1, 4, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 3, 4]
    precision, recall = 1.45 / 1.75, 1.6 / 3.25
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    want = 100 * mean * (1 - 0.6 * (1 / 3.5) ** 0.2)
    assert want == pytest.approx(27.939742)  # as the jar scores it
    assert meteor._score(*np.array(counts, float)[:, None]) == pytest.approx(want)


def test_without_java_nothing_is_made_up(monkeypatch):
    monkeypatch.setattr(text, "shutil", SimpleNamespace(which=lambda name: None))
    got = text.captions(ROWS)
    assert list(got.figures) == ["sacreBLEU", "rouge1", "rouge2", "rougeL"]
    (what,) = [what for what in got.problems if "left out" in what]
    assert "METEOR" in what and "there is no `java`: install" in what


def test_a_meteor_that_fails_is_left_out_with_the_reason(monkeypatch):
    # Another formula than the program's must not pass as METEOR.
    monkeypatch.setattr(meteor, "_run", lambda answers, references: (np.ones((len(answers), 23)), 0.5))
    with pytest.raises(meteor.Unavailable, match=r"the program scores 50\.0000, its counts give"):
        meteor.corpus(["a", "b"], [["a"], ["b"]])
    with pytest.raises(OSError):
        meteor._talk(["false"], ".", ["a"], [["a"]])  # type: ignore[arg-type]


def test_missing_libraries_are_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] in ("sacrebleu", "rouge_score", "pycocoevalcap"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    for metric in (text.overlap, text.captions):
        with pytest.raises(UserError, match=r"needs \w+: pip install 'jaxllava\[eval\]'"):
            metric(ROWS)


def test_truths_that_are_no_text():
    for truth in (None, [], [1], 3):
        with pytest.raises(UserError, match="'1': its truth is"):
            text.overlap([Answered("1", truth, "a")])
    with pytest.raises(UserError, match="'1': its answer is a int"):
        text.overlap([Answered("1", "a", 3)])
    assert math.isfinite(text.overlap([Answered("1", "a", "b")]).figures["sacreBLEU"].mean)
