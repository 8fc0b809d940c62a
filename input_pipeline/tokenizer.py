"""A byte-level BPE tokenizer trained on a corpus, saved so that transformers loads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from input_pipeline.errors import UserError

IMAGE_TOKEN = "<image>"
# `</s>` is not 2: Hugging Face's CLIP takes an end token of 2 for a historical mistake and pools elsewhere.
SPECIALS = ("<unk>", "<s>", "<pad>", "</s>", IMAGE_TOKEN)


def train_tokenizer(texts: Iterable[str], vocab_size: int, out_dir: Path) -> PreTrainedTokenizerFast:
    """Trains on `texts` and saves under `out_dir`. Any byte sequence stays encodable; digits stand alone.

    Like Llama's tokenizers it puts `<s>` in front when special tokens are asked for, so the Hugging Face processor of
    an exported model gives the ids that training saw.
    """
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(  # type: ignore[assignment]
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", SPECIALS.index("<s>"))]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
        padding_side="right",
    )
    tokenizer.save_pretrained(out_dir)
    return tokenizer


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Loads a tokenizer folder; `<image>` must be one of its tokens."""
    if not Path(path).is_dir():
        raise UserError(f"tokenizer folder {path} does not exist")
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"tokenizer in {path} has no fast (tokenizers) backend; save it with one")
    if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        raise UserError(f"tokenizer in {path} has no {IMAGE_TOKEN!r} token; add it as a special token")
    return tokenizer


def special_id(tokenizer: PreTrainedTokenizerFast, token: str | None) -> int:
    """The id of a special token; UserError where the tokenizer has none."""
    number = tokenizer.convert_tokens_to_ids(token) if token else None
    if not isinstance(number, int):
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no special token {token!r}; add it")
    return number


def plain_encoding(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and character offsets of `text` in which no special token can appear.

    What users wrote (`</s>`, `<image>`) is spelt out in ordinary tokens: control tokens come from templates alone.
    """
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    try:
        encoding = backend.encode(text, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = False
    return encoding.ids, encoding.offsets
