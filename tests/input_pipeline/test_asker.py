"""The tokenizer of questions: BERT's format, cut on the left, the same after saving."""

from __future__ import annotations

import pytest

from input_pipeline.asker import Asker
from input_pipeline.errors import UserError


def test_a_question_begins_and_ends_as_berts(asker: Asker) -> None:
    ids = asker("<image>\nWhat color is it?")
    words = asker.tokenizer.convert_ids_to_tokens(ids)
    assert words[0] == "[CLS]" and words[-1] == "[SEP]" and "what" in words and "<image>" not in words
    assert asker("").tolist() == [ids[0], ids[-1]]


def test_of_a_long_question_the_end_remains(asker: Asker) -> None:
    long = "red " * 400 + "is it blue ?"
    ids = asker(long)
    assert len(ids) == 256
    words = asker.tokenizer.convert_ids_to_tokens(ids)
    assert words[0] == "[CLS]" and words[-5:] == ["is", "it", "blue", "?", "[SEP]"]


def test_it_comes_back_from_its_folder(asker: Asker, tmp_path) -> None:
    before = asker.hash
    asker("red " * 400)  # leaves its settings of truncation behind
    asker.save(tmp_path / "saved")
    again = Asker.load(tmp_path / "saved")
    assert again.hash == asker.hash == before
    assert again("is it blue?").tolist() == asker("is it blue?").tolist()
    shorter = Asker(again.tokenizer, 9)
    assert shorter.hash != before and len(shorter("red " * 400)) == 9


def test_the_vocabulary_has_dec_behind_it_once(asker: Asker, tmp_path) -> None:
    """As LAVIS adds it to BERT's: 30522 and one. No question begins with it."""
    assert asker.tokenizer.convert_tokens_to_ids("[DEC]") == len(asker.tokenizer) - 1
    asker.save(tmp_path / "saved")
    assert len(Asker.load(tmp_path / "saved").tokenizer) == len(asker.tokenizer)
    assert len(asker.tokenizer) - 1 not in asker("is it blue?")


def test_mistakes_are_one_line(asker: Asker, tmp_path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Asker.load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no tokenizer that can be read"):
        Asker.load(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "bert"}')  # transformers makes one up
    with pytest.raises(UserError, match=r"no vocab\.txt, no tokenizer\.json"):
        Asker.load(tmp_path / "empty")
    with pytest.raises(UserError, match="and the Q-Former 5 embeddings"):
        asker.check(5, 512)
    asker.check(len(asker.tokenizer), 12)
    assert len(asker("red " * 400)) == 12
