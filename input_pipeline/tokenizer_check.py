"""Whether a tokenizer, a prompt template and a model go together, asked before the first step."""

from __future__ import annotations

import re

from transformers import PreTrainedTokenizerFast

from input_pipeline.conversation import Template
from input_pipeline.errors import UserError
from input_pipeline.tokenizer import IMAGE_TOKEN, controls, special_id

_CONTROL = re.compile(r"<\|[^|<>]+\|>")  # how ChatML, MPT and Llama 3 write theirs


def control_tokens(template: Template) -> list[str]:
    """The control tokens that a template's own text is made of, in order, each once."""
    texts = (template.system_mark, template.human, template.gpt, template.end)
    found = [token for text in texts for token in _CONTROL.findall(text)]
    return list(dict.fromkeys([*found, *(mark for mark in template.marks if mark)]))


def check_tokenizer(tokenizer: PreTrainedTokenizerFast, template: Template, vocab_size: int) -> None:
    """Raises UserError unless `tokenizer` writes `template` in ids that a model of `vocab_size` embeddings has.

    Control tokens that a tokenizer lacks would become ordinary text, and the model would never learn to stop. The id of
    `<image>` may lie behind the vocabulary: it is never embedded.
    """
    name = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    known = controls(tokenizer).ids
    if missing := [token for token in control_tokens(template) if token not in known]:
        raise UserError(
            f"{name} has no control token {', '.join(missing)}, of which template {template.name!r} is made; set "
            "config.template to the one that the model was trained with"
        )
    uses_bos = template.bos or template.style == "plain"
    uses_eos = template.parts.eos
    for what, used in (("bos_token", uses_bos), ("eos_token", uses_eos)):
        if used and getattr(tokenizer, what) is None:
            raise UserError(
                f"{name} has no {what}, which template {template.name!r} needs; add it to the tokenizer"
            )
    used = [*control_tokens(template), tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token]
    ids = {token: special_id(tokenizer, str(token)) for token in used if token and token != IMAGE_TOKEN}
    words = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    if words:
        last = max(words, key=words.__getitem__)
        ids[last] = words[last]
    token = max(ids, key=ids.__getitem__)
    if ids[token] >= vocab_size:
        raise UserError(
            f"{name} has token {token!r} of id {ids[token]}, and the model's vocabulary ends at {vocab_size - 1}; they "
            "do not belong together: take the tokenizer of the model's folder"
        )
