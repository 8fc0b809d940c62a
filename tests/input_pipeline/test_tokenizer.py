"""Folders of tokenizers, and what is told of those that hold none."""

from __future__ import annotations

import re

import pytest

from input_pipeline.errors import UserError
from input_pipeline.tokenizer import load_tokenizer


def test_a_folder_without_one_is_told_and_where_a_model_folder_has_it(tmp_path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(UserError, match=r"holds no tokenizer that transformers reads: \w+"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer").mkdir()
    with pytest.raises(UserError, match=re.escape(f"reads; give {tmp_path / 'tokenizer'}")):
        load_tokenizer(tmp_path)
