"""LAMBDA's questions, answers and conversations."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from input_pipeline.errors import UserError
from input_pipeline.sources import lambda_json
from input_pipeline.sources.llava_json import Sample
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Turn

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "lambda"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")

_ASK = "Scene 1: a dog. How memorable? \n<image>\n"


def _write(folder: Path, questions: Any, answers: Any) -> Path:
    (folder / "scenes").mkdir(exist_ok=True)
    (folder / "scenes/7.npy").write_bytes(b"x")
    (folder / "bs_a.json").write_text(json.dumps(answers))
    path = folder / "bs_q.json"
    path.write_text(json.dumps(questions))
    return path


def _reasons(items: list[Sample | Rejected]) -> list[tuple[str, str, str]]:
    return [(Path(i.origin).name, i.id, i.reason) for i in items if isinstance(i, Rejected)]


def test_questions_meet_their_answers(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        [
            {"video_name": "scenes/7.npy", "question": _ASK, "question_id": 7},
            {"question": "Describe an ad", "question_id": "8"},
            {"question": "And this?", "question_id": 9},
        ],
        [{"answer": 5, "question_id": 9}, {"answer": "It shows", "question_id": 8},
         {"answer": "49", "question_id": "7"}],
    )  # fmt: skip
    assert list(lambda_json.read(path, tmp_path)) == [
        Sample(
            "7",
            f"{path}:0",
            (),
            (Turn("human", _ASK), Turn("gpt", "49")),
            (str(tmp_path / "scenes/7.npy"),),
            {"memorability": 49, "task": "memorability"},
        ),
        Sample(
            "8",
            f"{path}:1",
            (),
            (Turn("human", "Describe an ad"), Turn("gpt", "It shows")),
            meta={"task": "content"},
        ),
        Sample(
            "9",
            f"{path}:2",
            (),
            (Turn("human", "And this?"), Turn("gpt", "05")),
            meta={"memorability": 5, "task": "memorability"},
        ),
    ]


def test_what_has_no_other_half_is_told_of(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        [{"question": "a", "question_id": 1}, {"question": "b", "question_id": 2}, {"question": "a", "question_id": 1},
         {"question": "c"}, 5],
        [{"answer": "x", "question_id": 1}, {"answer": "y", "question_id": 1}, {"answer": "z", "question_id": 3}, None],
    )  # fmt: skip
    items = list(lambda_json.read(path, tmp_path))
    assert [item.id for item in items if isinstance(item, Sample)] == ["1"]
    assert _reasons(items) == [
        ("bs_a.json:1", "1", "question_id is given twice"),
        ("bs_a.json:3", "", "element is not an object"),
        ("bs_q.json:1", "2", "question without an answer"),
        ("bs_q.json:2", "1", "question_id is given twice"),
        ("bs_q.json:3", "", "no question_id"),
        ("bs_q.json:4", "", "element is not an object"),
        ("bs_a.json:2", "3", "answer without a question"),
    ]


def test_a_missing_video_costs_the_record_or_its_mark(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        [{"video_name": "scenes/none.npy", "question": _ASK, "question_id": 1},
         {"video_name": "scenes/none.npy", "question": "<image>", "question_id": 2},
         {"video_name": "../x.npy", "question": _ASK, "question_id": 3}],
        [{"answer": "49", "question_id": n} for n in (1, 2, 3)],
    )  # fmt: skip
    with_video, text_only = (list(lambda_json.read(path, tmp_path, text_only=flag)) for flag in (False, True))
    outside = ("bs_q.json:2", "3", "video lies outside the images folder")
    gone = [("bs_q.json:0", "1", "media is gone"), ("bs_q.json:1", "2", "media is gone")]
    assert _reasons(with_video) == [*gone, outside]
    assert [item.kind for item in with_video if isinstance(item, Rejected)] == ["gone", "gone", "bad"]
    (sample,) = (item for item in text_only if isinstance(item, Sample))
    assert sample.conversations[0].text == "Scene 1: a dog. How memorable?"
    assert (sample.images, sample.videos) == ((), ())
    assert sample.meta == {
        "video": "scenes/none.npy",
        "video_missing": True,
        "memorability": 49,
        "task": "memorability",
    }
    assert _reasons(text_only) == [gone[1], outside]


def test_a_video_may_lie_in_the_root_itself(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        [{"video_name": "elsewhere/7.npy", "question": _ASK, "question_id": 7}],
        [{"answer": "49", "question_id": 7}],
    )
    (item,) = lambda_json.read(path, tmp_path / "scenes")
    assert isinstance(item, Sample)
    assert item.videos == (str(tmp_path / "scenes/7.npy"),)


def test_conversations(tmp_path: Path) -> None:
    path = tmp_path / "lambda_cs_test.json"
    turns = [{"from": "human", "value": "Describe"}, {"from": "gpt", "value": "It shows"}]
    path.write_text(json.dumps([
        {"id": 1, "conversation": turns, "score": 99},
        {"id": 2, "conversation": turns, "score": None},
        {"id": 3, "conversation": turns, "score": 123},
        {"id": 4, "conversation": [turns[0]]},
        "x",
    ]))  # fmt: skip
    items = list(lambda_json.read(path, tmp_path))
    assert [item.meta for item in items if isinstance(item, Sample)] == [
        {"memorability": 99, "task": "content"},
        {"task": "content"},
        {"task": "content"},
    ]
    assert [reason for _, _, reason in _reasons(items)] == [
        "conversation does not end with an answer",
        "element is not an object",
    ]


def test_mistakes_are_named(tmp_path: Path) -> None:
    path = _write(tmp_path, [], [])
    with pytest.raises(UserError, match=r"bs_a\.json: holds answers; give .*bs_q\.json"):
        lambda_json.read(tmp_path / "bs_a.json", tmp_path)
    (tmp_path / "bs_a.json").unlink()
    with pytest.raises(UserError, match=r"answers are missing; .*bs_a\.json"):
        lambda_json.read(path, tmp_path)


@needs_real
def test_real_files() -> None:
    def count(name: str, **options: Any) -> Counter[str]:
        return Counter(
            item.reason if isinstance(item, Rejected) else item.meta["task"]
            for item in lambda_json.read(REAL / name, REAL, **options)
        )

    assert count("bs_test_q.part.json") == {"media is gone": 30}
    assert count("bs_test_q.part.json", text_only=True) == {"memorability": 30}
    assert count("cs_test_q.part.json") == {"content": 30}
    assert count("lambda_cs_test.part.json") == {"content": 30}
    scores = [item.meta.get("memorability") for item in lambda_json.read(REAL / "lambda_cs_test.part.json", REAL)
              if isinstance(item, Sample)]  # fmt: skip
    assert all(isinstance(score, int) for score in scores)


_junk = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 3)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=4)
    | st.sampled_from(["<image>", "a<image>", "49", "7.npy", "n" * 5000, "\x00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)


def _objects(*keys: str) -> st.SearchStrategy[Any]:
    return st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, _junk)) | _junk, max_size=5)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_objects("video_name", "question", "question_id"), _objects("answer", "question_id"), st.booleans())
def test_no_pair_raises_and_all_are_told_of(
    tmp_path: Path, questions: list[Any], answers: list[Any], text_only: bool
) -> None:
    path = _write(tmp_path, questions, answers)
    items = list(lambda_json.read(path, tmp_path / "scenes", text_only=text_only))
    per_file = Counter(item.origin.rpartition(":")[0] for item in items)
    assert per_file[str(path)] == len(questions)
    left_over = (
        "answer without a question",
        "question_id is given twice",
        "no question_id",
        "element is not an object",
    )
    lone = sum(reason in left_over and name.startswith("bs_a") for name, _, reason in _reasons(items))
    lone_questions = sum(name.startswith("bs_q") and reason in ("question without an answer", *left_over)
                         for name, _, reason in _reasons(items))  # fmt: skip
    assert lone + len(questions) - lone_questions == len(answers)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_objects("id", "video", "image", "conversation", "conversations", "score"), st.booleans())
def test_no_conversation_raises(tmp_path: Path, rows: list[Any], text_only: bool) -> None:
    path = tmp_path / "lambda_x.json"
    path.write_text(json.dumps(rows))
    assert len(list(lambda_json.read(path, tmp_path, text_only=text_only))) == len(rows)
