"""The tokenizer of the questions that LLaMA-VID's Q-Former reads: BERT's, apart from the language model's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from input_pipeline.errors import UserError
from input_pipeline.shown import question_text

FOLDER = "question_tokenizer"  # in a model's folder
DECODE = "[DEC]"  # what LAVIS adds to BERT's vocabulary, behind it; no question begins with it
MOST_TOKENS = 256  # as LLaMA-VID cuts a question: its end is kept


class Asker:
    """`asker(turn)` gives a turn's token ids, int32 [<= most], `[CLS]` and `[SEP]` among them.

    A question is cut on its left, so that of a long prompt (a transcript, say) the end remains, where the question
    stands (`init_bert(truncation_side="left")`, max_length=256 in `llamavid_arch.py`).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, most: int = MOST_TOKENS) -> None:
        self.tokenizer = tokenizer
        self.most = most
        tokenizer.truncation_side = "left"

    def __call__(self, turn: str) -> np.ndarray:
        ids = self.tokenizer(question_text(turn), truncation=True, max_length=self.most)["input_ids"]
        return np.asarray(ids, np.int32)

    @property
    def hash(self) -> str:
        described = json.loads(self.tokenizer.backend_tokenizer.to_str())
        described = {
            **described,
            "truncation": self.most,
            "padding": None,
        }  # not what the last call left there
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def check(self, vocabulary: int, positions: int) -> None:
        """UserError where a Q-Former of this vocabulary and so many positions could not read what is asked."""
        if len(self.tokenizer) > vocabulary:
            raise UserError(
                f"the question tokenizer has {len(self.tokenizer)} tokens, and the Q-Former {vocabulary} embeddings; "
                "give the tokenizer that it was made with (bert-base-uncased)."
            )
        self.most = min(self.most, positions)

    def save(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Asker:
        """Of a folder with vocab.txt or tokenizer.json. To one of BERT's kind `[DEC]` is added where it is not there,
        so that bert-base-uncased has the 30523 tokens of the published Q-Formers. UserError where none can be read.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; it should hold the tokenizer of bert-base-uncased.")
        if not any((folder / name).is_file() for name in ("vocab.txt", "tokenizer.json")):
            # transformers makes one up, of the kind that config.json names.
            raise UserError(
                f"{folder}: holds no tokenizer that can be read (no vocab.txt, no tokenizer.json); copy those of "
                "bert-base-uncased there."
            )
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers has no class for it
            first = str(error).strip().split("\n")[0]
            raise UserError(
                f"{folder}: holds no tokenizer that can be read ({first}); copy vocab.txt and tokenizer_config.json "
                "of bert-base-uncased there."
            ) from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UserError(
                f"{folder}: its tokenizer has no tokenizer.json; save it with a newer transformers."
            )
        if tokenizer.cls_token is not None and DECODE not in tokenizer.get_vocab():  # of BERT's kind
            tokenizer.add_special_tokens({"bos_token": DECODE})
        return cls(tokenizer)
