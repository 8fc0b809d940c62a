"""Generated text against references: the captioning figures, sacreBLEU and ROUGE.

Two families, which do not agree with each other:

  captions   BLEU-1..4, ROUGE-L, METEOR and CIDEr of pycocoevalcap, on Stanford's PTB tokens. The captioning
             field's (COCO, TextCaps, Shot2Story and with it Behavior-LLaVA's audio and multi-shot summaries).
  overlap    sacreBLEU and rouge-score's ROUGE-1/2/L: BLEU and ROUGE as the rest of the field defines them.

Both are in percent, as papers print them; CIDEr, too, x 100. METEOR and the tokens need Java.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.errors import UserError, in_one_line
from jaxllava.evaluate import metrics
from jaxllava.evaluate.metrics import Array, Estimate
from jaxllava.evaluate.scoring import figures, meteor
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check
from jaxllava.evaluate.scoring.answered import text as text_of

_JAVA_MISSING = "there is no `java`: install a Java runtime (Debian: apt install default-jre-headless)"


def _needs(what: str, error: ImportError) -> UserError:
    return UserError(f"{what} needs {error.name}: pip install 'jaxllava[eval]'")


def _texts(benchmark: str, rows: Sequence[Answered], problems: Problems) -> tuple[list[str], list[list[str]]]:
    check(benchmark, rows)
    answers, references = [], []
    for row in rows:
        own = [row.truth] if isinstance(row.truth, str) else row.truth
        if not isinstance(own, (list, tuple)) or not own or not all(isinstance(one, str) for one in own):
            raise broken(benchmark, row, f"its truth is {row.truth!r}, not a text or a list of texts")
        answers.append(text_of(benchmark, row, problems, "matches nothing"))
        references.append(list(own))
    return answers, references


# --- the captioning figures ---


def captions(rows: Sequence[Answered]) -> Scored:
    """The COCO captioning figures in percent: "BLEU-4" first, then ROUGE-L, METEOR, CIDEr and BLEU-1..3.

    Truths are a text or several. BLEU and METEOR are of the corpus, not means over items; their intervals
    resample the items' counts. CIDEr's word weights come from the references of all rows, and stay as they are in
    the resamples. It needs several rows: of a single one every weight, and so CIDEr, is 0.

    Without Java neither the tokens nor METEOR can be had: the figures are then those of `overlap`, and the
    problems say so.
    """
    try:
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise _needs("the captioning figures", error) from None
    if shutil.which("java") is None:
        scored = overlap(rows)
        left_out = f"BLEU-4, ROUGE-L, METEOR, CIDEr left out: {_JAVA_MISSING}"
        return Scored(scored.figures, {**scored.problems, left_out: []})
    problems = Problems()
    answers, references = _texts("captions", rows, problems)
    tokens = ptb_tokens(answers + [one for own in references for one in own])
    tokenized = tokens[: len(answers)]
    rest = iter(tokens[len(answers) :])
    targets = [[next(rest) for _ in own] for own in references]

    found = {}
    counts = _coco_counts(tokenized, targets)
    for order in (4, 1, 2, 3):
        found[f"BLEU-{order}"] = _bleu(f"BLEU-{order}", counts, order)
    given = {at: [answer] for at, answer in enumerate(tokenized)}
    wanted = dict(enumerate(targets))
    found["ROUGE-L"] = figures.percent("ROUGE-L", Rouge().compute_score(wanted, given)[1])
    try:
        found["METEOR"] = meteor.corpus(tokenized, targets)
    except meteor.Unavailable as error:
        problems[f"METEOR left out: {in_one_line(error)}"] = []
    found["CIDEr"] = figures.percent("CIDEr", Cider().compute_score(wanted, given)[1])
    order = ["BLEU-4", "ROUGE-L", "METEOR", "CIDEr", "BLEU-1", "BLEU-2", "BLEU-3"]
    return Scored({name: found[name] for name in order if name in found}, dict(problems))


def ptb_tokens(texts: Sequence[str]) -> list[str]:
    """Returns each text's Stanford PTB tokens, lower case and without punctuation, joined by blanks.

    The same program and rule as pycocoevalcap's PTBTokenizer, which however writes into its own package's folder.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    command += ["-preserveLines", "-lowerCase", "-encoding", "UTF-8"]
    lines = "".join(" ".join(one.splitlines()) + "\n" for one in texts)
    done = subprocess.run(command, input=lines.encode(), capture_output=True)
    out = done.stdout.decode("utf-8", "replace").split("\n")[:-1]
    if done.returncode or len(out) != len(texts):
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-200:]
        raise UserError(
            f"captions: Stanford's tokenizer gave {len(out)} lines for {len(texts)} texts: {said}"
        )
    marks = set(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in marks) for line in out]


def _coco_counts(answers: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
    """Returns BLEU's counts of each item, [10, n]: its length, the closest reference's, 4 n-gram totals, 4 matches."""
    from pycocoevalcap.bleu import bleu_scorer

    counts = []
    for answer, own in zip(answers, references, strict=True):
        cooked: Any = bleu_scorer.cook_test(answer, bleu_scorer.cook_refs(own), eff="closest")
        counts.append([cooked["testlen"], cooked["reflen"], *cooked["guess"], *cooked["correct"]])
    return np.array(counts, dtype=np.float64).T


def _bleu(name: str, counts: Array, order: int) -> Estimate:
    def statistic(*columns: Array) -> Array:
        length, reference, *rest = (column.sum(axis=-1) for column in columns)
        guesses, matches = rest[:4], rest[4:]
        # pycocoevalcap's tiny and small: no division by zero, and 0 where there is no n-gram to guess.
        product = np.ones_like(length)
        for guess, match in zip(guesses[:order], matches[:order], strict=True):
            product = product * (match + 1e-15) / (guess + 1e-9)
        ratio = (length + 1e-15) / (reference + 1e-9)
        with np.errstate(over="ignore"):
            penalty = np.where(ratio < 1, np.exp(1 - 1 / ratio), 1.0)
        return 100 * product ** (1 / order) * penalty

    return metrics.estimate(statistic, _named(counts), name=name)


# --- sacreBLEU and ROUGE ---


def overlap(rows: Sequence[Answered]) -> Scored:
    """ "sacreBLEU" (13a tokens, exponential smoothing), then "rouge1", "rouge2", "rougeL" (F, no stemming); percent.

    BLEU is of the corpus; its interval resamples the items' counts. Of several references ROUGE takes the best.
    """
    problems = Problems()
    answers, references = _texts("text overlap", rows, problems)
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise _needs("text overlap", error) from None
    bleu = BLEU()
    most = max(map(len, references))
    # sacrebleu takes None where a segment has fewer references than others; its annotations do not say so.
    streams: Any = [[own[at] if at < len(own) else None for own in references] for at in range(most)]
    counts = np.array(bleu._extract_corpus_statistics(answers, streams), dtype=np.float64).T  # [10, n]

    found = {"sacreBLEU": metrics.estimate(_sacrebleu, _named(counts), name="sacreBLEU")}
    official = bleu.corpus_score(answers, streams).score
    if abs(found["sacreBLEU"].mean - official) > 1e-6:
        raise RuntimeError(
            f"sacrebleu's corpus score is {official}, its counts give {found['sacreBLEU'].mean}"
        )
    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds)
    best = [scorer.score_multi(own, answer) for answer, own in zip(answers, references, strict=True)]
    for kind in kinds:
        found[kind] = figures.percent(kind, [score[kind].fmeasure for score in best])
    return Scored(found, dict(problems))


def _named(counts: Array) -> dict[str, Array]:
    return {f"count {at}": column for at, column in enumerate(counts)}


def _sacrebleu(*columns: Array) -> Array:
    """Corpus BLEU from sacrebleu's counts: answer's length, reference's length, 4 matches, 4 totals, [..., n] each."""
    length, reference, *rest = (column.sum(axis=-1) for column in columns)
    matches, totals = np.stack(rest[:4]), np.stack(rest[4:])
    # Exponential smoothing: the k-th order without a match counts as half of the one before, from 1/2 on.
    missed = np.cumsum(matches == 0, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(matches > 0, matches / totals, 0.5**missed / totals)
        score = 100 * np.exp(np.log(precision).mean(axis=0))
        penalty = np.where(length < reference, np.exp(1 - reference / length), 1.0)
    # No match at all, or an order without n-grams: 0.
    defined = (totals > 0).all(axis=0) & (matches > 0).any(axis=0) & (length > 0)
    return np.where(defined, score * penalty, 0.0)
