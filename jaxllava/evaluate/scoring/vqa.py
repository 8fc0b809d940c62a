"""Short answers to questions about pictures: VQAv2, VizWiz, TextVQA and GQA, by their official rules.

Sources: VQAv2's vqaEval.py, VizWiz's copy of it, the M4C evaluator that LLaVA's eval_textvqa.py calls, GQA's
eval.py behind LLaVA's convert_gqa_for_eval.py. Their odd corners are kept, or the figures would not compare.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from jaxllava.evaluate.scoring import figures
from jaxllava.evaluate.scoring.answered import Answered, Problems, Scored, broken, check, meta, text

# --- normalisation ---

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"none": "0"} | {word: str(value) for value, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA = re.compile(r"\d,\d")
# The official pattern has a typing error in what should look behind: it only looks ahead, so that "5." loses
# its point as "U.S." does, and ".5" keeps it.
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
_MOST_PERIODS = int(re.UNICODE)  # the official call passes the flag where the count belongs
# The right spellings; the wrong ones that the official table lists lack any one of the apostrophes.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# VizWiz's table is typeset with ’, but for these.
_STRAIGHT_VALUES = {"ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've"}
_STRAIGHT_KEYS = {"couldn'tve", "hadn'tve"}


def _contractions() -> dict[str, str]:
    table = {"somebody'd": "somebodyd"}  # (sic)
    for right in _CONTRACTIONS.split():
        for at, character in enumerate(right):
            if character == "'":
                table[right[:at] + right[at + 1 :]] = right
    return table


def _typeset(table: Mapping[str, str]) -> dict[str, str]:
    def curly(word: str, straight: set[str]) -> str:
        return word if word in straight else word.replace("'", "’")

    return {curly(key, _STRAIGHT_KEYS): curly(value, _STRAIGHT_VALUES) for key, value in table.items()}


_VQA_TABLE = _contractions()
_VIZWIZ_TABLE = _typeset(_VQA_TABLE)


def _punctuation(answer: str) -> str:
    """Drops marks that touch a blank (all marks, where the answer has a thousands comma); others become blanks."""
    all_dropped = _COMMA.search(answer) is not None
    out = answer
    for mark in _PUNCTUATION:
        dropped = all_dropped or f"{mark} " in answer or f" {mark}" in answer
        out = out.replace(mark, "" if dropped else " ")
    return _PERIOD.sub("", out, count=_MOST_PERIODS)


def _words(answer: str, table: Mapping[str, str]) -> str:
    words = (_DIGITS.get(word, word) for word in answer.lower().split())
    return " ".join(table.get(word, word) for word in words if word not in _ARTICLES)


def _flat(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def official(answer: str, table: Mapping[str, str] = _VQA_TABLE) -> str:
    """Returns an answer as VQAv2's official script compares it.

    Punctuation goes, number words become digits, articles go, contractions get their apostrophes back.
    """
    return _words(_punctuation(_flat(answer)), table)


def m4c(answer: str) -> str:
    """Returns an answer as M4C's evaluator and LLaVA's submissions have it.

    It lowers the case, drops commas and question marks and sets "'s" apart before the official rule.
    """
    answer = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return official(answer.strip())


# --- accuracy against several people's answers ---


def agreement(matches: int, people: int) -> float:
    """Returns min(n / 3, 1), n of the other people's answers that match, averaged over leaving out each person."""
    with_match = min(max(matches - 1, 0) / 3, 1)  # one of the matching people is left out
    without = min(matches / 3, 1)
    return (matches * with_match + (people - matches) * without) / people


def _people(
    benchmark: str,
    rows: Sequence[Answered],
    answer_rule: Callable[[str], str],
    truth_rule: Callable[[list[str]], list[str]],
    types: Sequence[str],
    least: int = 2,
) -> Scored:
    check(benchmark, rows)
    problems = Problems()
    shares = []
    for row in rows:
        people = row.truth
        if not isinstance(people, (list, tuple)) or not all(isinstance(one, str) for one in people):
            raise broken(benchmark, row, "its truth is not the list of the people's answers")
        if len(people) < least:
            raise broken(
                benchmark, row, f"its truth has {len(people)} answers; the official rule needs {least}"
            )
        answer = answer_rule(text(benchmark, row, problems, "matches what people left empty, if any"))
        shares.append(agreement(truth_rule(list(people)).count(answer), len(people)))
    found = {"accuracy": figures.percent("accuracy", shares)}
    for key in types:
        found |= figures.per_category("accuracy", shares, [row.meta.get(key) for row in rows])
    return Scored(found, dict(problems))


def vqav2(rows: Sequence[Answered], *, submitted: bool = False) -> Scored:
    """VQAv2's (and OK-VQA's) accuracy, 0-100; also for each `meta["answer_type"]` and `meta["question_type"]`.

    Truths are the ten people's answers. Of those only the punctuation is normalised, and only where not all ten
    agree, as in the official script.

    Args:
        rows: their answers are the model's texts.
        submitted: first passes answers through `m4c`, as LLaVA does before it hands them to the server.
    """

    def truths(people: list[str]) -> list[str]:
        return [_punctuation(one) for one in people] if len(set(people)) > 1 else people

    return _people("VQAv2", rows, _submission(submitted, official), truths, ("answer_type", "question_type"))


def vizwiz(rows: Sequence[Answered], *, submitted: bool = False) -> Scored:
    """VizWiz's accuracy, 0-100, over all and for each `meta["answer_type"]`: VQAv2's rule, truths as they are.

    Args:
        rows: truths are the ten people's answers, answers the model's texts.
        submitted: first passes answers through `m4c`, as LLaVA does before it hands them to the server.
    """

    def rule(answer: str) -> str:
        return official(answer, _VIZWIZ_TABLE)

    return _people("VizWiz", rows, _submission(submitted, rule), lambda people: people, ("answer_type",))


def _submission(submitted: bool, rule: Callable[[str], str]) -> Callable[[str], str]:
    return (lambda answer: rule(m4c(answer))) if submitted else rule


def textvqa(rows: Sequence[Answered]) -> Scored:
    """TextVQA's accuracy, 0-100, by the M4C evaluator: answer and truths normalised alike; ten truths each."""

    def truths(people: list[str]) -> list[str]:
        return [m4c(one) for one in people]

    return _people("TextVQA", rows, m4c, truths, (), least=10)


def textvqa_question(prompt: str) -> str:
    """Returns the question in a prompt of LLaVA's TextVQA files, in lower case.

    With the picture's id it is the key under which LLaVA's scorer looks up the annotation. A ValueError for a
    prompt of none of the three known forms.
    """
    lines = prompt.split("\n")
    if prompt.startswith("OCR tokens: "):
        found = re.search(r"Question: (.*?) Short answer:", prompt, re.DOTALL)
        if found:
            return found.group(1).lower()
    elif "Reference OCR token: " in prompt and len(lines) == 3:
        return lines[1 if prompt.startswith("Reference OCR token:") else 0].lower()
    elif len(lines) == 2:
        return lines[0].lower()
    raise ValueError(f"no TextVQA prompt: {prompt!r}")


def gqa(rows: Sequence[Answered]) -> Scored:
    """GQA's accuracy in percent: lower case, no full stops at the end, then the very same string.

    `meta["structural"]` (the question file's types.structural) adds "binary" (every type but "query"), "open"
    ("query") and each structural type; `meta["semantic"]` each semantic type.
    """
    check("GQA", rows)
    problems = Problems()
    right = []
    for row in rows:
        if not isinstance(row.truth, str):
            raise broken("GQA", row, f"its truth is {row.truth!r}, not a text")
        right.append(text("GQA", row, problems, "counted as wrong").rstrip(".").lower() == row.truth)
    found = {"accuracy": figures.percent("accuracy", right)}
    if any("structural" in row.meta for row in rows):
        types = [str(meta("GQA", row, "structural")) for row in rows]
        kinds = ["open" if kind == "query" else "binary" for kind in types]
        named = figures.per_category("", right, kinds)
        found |= {key.removeprefix("/"): value for key, value in named.items()}
        found |= figures.per_category("structural", right, types)
    found |= figures.per_category("semantic", right, [row.meta.get("semantic") for row in rows])
    return Scored(found, dict(problems))
