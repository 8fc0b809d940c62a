"""The notes below the table of benchmarks."""

from __future__ import annotations

from jaxllava.evaluate import benchmark_table
from jaxllava.evaluate.tasks import TASKS


def test_what_is_counted_is_told_with_an_example_that_is_no_count():
    counted = lambda *ids: {"count": len(ids), "first": list(ids)}
    result = {
        "task": "pope",
        "setting": "zero-shot",
        "figures": {"all": {"mean": 1.0, "low": 0.0, "high": 2.0, "n": 3}},
        "failures": [],
        "asked": 9,
        "questions": 9,
        "not answered": {"media": counted("4: no such file", "5: no such file")},
        "rejected": {"no text": counted("questions.jsonl:7")},
        "problems": {
            "counted as -1 -1": counted("0", "3"),
            "left out": counted("8"),
            "the whole": counted(),
        },
    }
    notes = benchmark_table.table([result], TASKS).splitlines()
    for note in (
        "2 not answered, not scored: media (such as question 4: no such file)",
        "left out of the release, once: no text (questions.jsonl:7)",
        "2 answers: counted as -1 -1 (such as question 0)",
        "1 answer: left out (question 8)",
        "the whole",
    ):
        assert f"pope: {note}" in notes
