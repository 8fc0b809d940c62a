"""A byte-level BPE tokenizer trained on a corpus, saved so that transformers loads it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import generate_merges

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


def load_tokenizer(
    path: str | Path, image_token: bool = True, legacy: bool | None = None
) -> PreTrainedTokenizerFast:
    """Loads a tokenizer folder, or a SentencePiece model: the file, or a folder that has nothing but tokenizer.model.

    Args:
        image_token: `<image>` must be one of its tokens.
        legacy: overrides what the folder says of SentencePiece's `legacy`; a bare model is not legacy.
    """
    path = Path(path)
    if path.is_file():
        tokenizer = load_sentencepiece(path, bool(legacy))
    elif not path.is_dir():
        raise UserError(f"tokenizer folder {path} does not exist")
    elif not (path / "tokenizer.json").exists() and (path / "tokenizer.model").exists():
        settings = path / "tokenizer_config.json"
        said = json.loads(settings.read_text()).get("legacy", True) if settings.exists() else False
        tokenizer = load_sentencepiece(path / "tokenizer.model", bool(said) if legacy is None else legacy)
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            inside = path / "tokenizer"  # of a model folder of ours
            why = f"; give {inside}" if inside.is_dir() else f": {_first_line(error)}"
            raise UserError(f"{path} holds no tokenizer that transformers reads{why}") from error
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            raise UserError(f"tokenizer in {path} has no fast (tokenizers) backend; save it with one")
        space = _metaspace(tokenizer)
        if space and legacy is not None:
            scheme = "always" if legacy else "first"
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
                space.replacement, scheme, space.split
            )
    if image_token and tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) in (None, tokenizer.unk_token_id):
        raise UserError(f"tokenizer in {path} has no {IMAGE_TOKEN!r} token; add it as a special token")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> None:
    """Writes a tokenizer folder that every transformers from 4.44 on reads to the same ids.

    `save_pretrained` of 5.x names a class that 4.x has not, lists special tokens where 4.x wants names, and writes
    merges as pairs; and a SentencePiece tokenizer comes back from its own class without `legacy`.
    """
    folder = Path(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for key in ("backend", "is_local", "local_files_only"):
        settings.pop(key, None)
    # tokenizer.json says everything: no class of a family, which would make some of it anew.
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    named = settings.pop("model_specific_special_tokens", {})
    more = settings.pop("extra_special_tokens", [])
    if isinstance(more, dict):
        named, more = named | more, []
    if named:
        settings["extra_special_tokens"] = named
    if more:
        settings["additional_special_tokens"] = more
    settings["model_input_names"] = ["input_ids", "attention_mask"]  # no token_type_ids: a decoder takes none
    path.write_text(json.dumps(settings, indent=2) + "\n")
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    merges = whole["model"].get("merges")
    if merges and not any(" " in part for merge in merges if not isinstance(merge, str) for part in merge):
        whole["model"]["merges"] = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
        path.write_text(json.dumps(whole, ensure_ascii=False, indent=2))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def load_sentencepiece(path: str | Path, legacy: bool = False) -> PreTrainedTokenizerFast:
    """Llama's tokenizer from a SentencePiece model file, with `<s>` in front and `<unk>` as padding as in LLaVA.

    Args: legacy: the behaviour of tokenizers before transformers 4.31, which LLaVA's checkpoints ask for.
    """
    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is not a SentencePiece model") from error
    numbers = range(model.get_piece_size())
    vocab = {model.id_to_piece(number): number for number in numbers}
    control = [model.id_to_piece(number) for number in numbers if model.is_control(number)]
    unknown = model.id_to_piece(model.unk_id())
    return LlamaTokenizer(
        vocab=vocab,
        merges=generate_merges(vocab),
        legacy=legacy,
        unk_token=unknown,
        pad_token=unknown,
        bos_token=model.id_to_piece(model.bos_id()),
        eos_token=model.id_to_piece(model.eos_id()),
        additional_special_tokens=[token for token in control if token not in ("<s>", "</s>")],
        add_bos_token=True,
        model_max_length=2048,
        padding_side="right",
    )


def special_id(tokenizer: PreTrainedTokenizerFast, token: str | None) -> int:
    """The id of a special token; UserError where the tokenizer has none."""
    number = tokenizer.convert_tokens_to_ids(token) if token else None
    if not isinstance(number, int):
        raise UserError(f"the tokenizer {tokenizer.name_or_path} has no special token {token!r}; add it")
    return number


@dataclass(frozen=True)
class Controls:
    """What every conversation asks of its tokenizer."""

    ids: dict[str, int]  # of the control tokens
    adds_bos: bool  # the tokenizer puts `<s>` in front by itself


_CONTROLS: WeakKeyDictionary[PreTrainedTokenizerFast, tuple[int, Controls]] = WeakKeyDictionary()


def controls(tokenizer: PreTrainedTokenizerFast) -> Controls:
    """A tokenizer's control tokens, looked up once (and again when it has grown)."""
    size, found = _CONTROLS.get(tokenizer, (0, None))
    if found is None or size != len(tokenizer):
        ids = {token.content: n for n, token in tokenizer.added_tokens_decoder.items() if token.special}
        ids |= {token: special_id(tokenizer, token) for token in tokenizer.all_special_tokens}
        first = tokenizer("a")["input_ids"][:1]
        found = Controls(ids, first == [tokenizer.bos_token_id])
        _CONTROLS[tokenizer] = (len(tokenizer), found)
    return found


def _metaspace(tokenizer: PreTrainedTokenizerFast) -> pre_tokenizers.Metaspace | None:
    found = tokenizer.backend_tokenizer.pre_tokenizer
    return found if isinstance(found, pre_tokenizers.Metaspace) else None


def is_legacy(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a SentencePiece tokenizer puts its `▁` behind control tokens too (`legacy=True`)."""
    space = _metaspace(tokenizer)
    return space is None or space.prepend_scheme == "always"


def plain_encoding(
    tokenizer: PreTrainedTokenizerFast, text: str, prefix: bool = True
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and character offsets of `text` in which no special token can appear.

    What users wrote (`</s>`, `<image>`) is spelt out in ordinary tokens: control tokens come from templates alone.

    Args: prefix: whether a SentencePiece tokenizer puts its `▁` in front; others have none to put.
    """
    backend = tokenizer.backend_tokenizer
    space = _metaspace(tokenizer)
    scheme = space.prepend_scheme if space else ""
    backend.encode_special_tokens = True
    try:
        if space and not prefix:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(space.replacement, "never", space.split)
        encoding = backend.encode(text, add_special_tokens=False)
    finally:
        backend.encode_special_tokens = False
        if space and not prefix:
            backend.pre_tokenizer = pre_tokenizers.Metaspace(space.replacement, scheme, space.split)
    return encoding.ids, encoding.offsets
