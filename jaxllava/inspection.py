"""`jaxllava inspect`: what is in a record, a data set or a model, as text."""

from __future__ import annotations

import argparse
import json
import math

from input_pipeline import records, token_chunks
from input_pipeline.conversation import get_template
from input_pipeline.encoding import IGNORE, encode
from input_pipeline.errors import UserError
from input_pipeline.sources import llava_json
from input_pipeline.sources.rejected import Rejected
from input_pipeline.tokenizer import IMAGE_TOKEN, load_tokenizer

IMAGE_ID = -200  # what the reference writes at an image's place (IMAGE_TOKEN_INDEX)


def sample(args: argparse.Namespace) -> str:
    """One record, token by token: position, id, label, text, and whether it is supervised."""
    if not args.data:
        raise UserError("jaxllava inspect sample: set --data DIR (the records folder of jaxllava prepare)")
    source = records.open_split(args.data, args.split)
    if not 0 <= args.index < len(source):
        raise UserError(f"--index {args.index}: split {args.split} has records 0 to {len(source) - 1}")
    if args.model:
        from jaxllava import api

        model = api.load(args.model)
        tokenizer, template, image_tokens = model.tokenizer, model.template, model.config.image_tokens
    elif args.tokenizer:
        tokenizer, template, image_tokens = load_tokenizer(args.tokenizer), "v1_bare", 4
    else:
        raise UserError("jaxllava inspect sample: set --model DIR or --tokenizer DIR")
    template = get_template(args.template or template)
    record = source[args.index]
    encoded = token_chunks.encode_record(record, tokenizer, template, args.image_tokens or image_tokens)
    lines = [
        f"record {record.id}, split {args.split}, task {record.task}, template {template.name}",
        f"{len(encoded)} tokens, {int((encoded.labels != IGNORE).sum())} supervised, {encoded.images} images",
        "",
        f"{'pos':>5} {'id':>7} {'label':>7}  text",
    ]
    position = 0
    while position < len(encoded):
        token, label = int(encoded.tokens[position]), int(encoded.labels[position])
        if encoded.image_index[position] >= 0:
            # One line for the whole image: its positions differ in nothing but their number.
            end = position
            while end + 1 < len(encoded) and encoded.image_index[end + 1] == encoded.image_index[end] + 1:
                end += 1
            lines.append(f"{position:>5} {token:>7} {'-':>7}  <image>  (positions {position} to {end})")
            position = end + 1
            continue
        shown = "-" if label == IGNORE else str(label)
        mark = "  " if label == IGNORE else "* "
        lines.append(f"{position:>5} {token:>7} {shown:>7} {mark}{tokenizer.decode([token])!r}")
        position += 1
    lines += ["", "* = supervised: this token is a target of the loss"]
    return "\n".join(lines)


def tokens(args: argparse.Namespace) -> str:
    """A LLaVA JSON list as the ids and labels that training sees, one JSON line per conversation."""
    if not (args.json and args.tokenizer):
        raise UserError(
            "jaxllava inspect tokens: set --json FILE (a LLaVA JSON list) and --tokenizer (a folder, or a "
            "SentencePiece model)"
        )
    tokenizer = load_tokenizer(args.tokenizer, image_token=False, legacy=True if args.legacy else None)
    template = get_template(args.template or "vicuna_v1")
    image_id = IMAGE_ID if args.no_expand else tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    if not isinstance(image_id, int) or image_id == tokenizer.unk_token_id:
        image_id = IMAGE_ID
    lines = []
    for found in llava_json.read_turns(args.json):
        if isinstance(found, Rejected):
            lines.append(json.dumps({"id": found.id, "origin": found.origin, "error": found.reason}))
            continue
        name, turns = found
        image_tokens = 1 if args.no_expand else args.image_tokens or 576
        encoded = encode(
            turns, tokenizer, template, image_tokens, image_id, reference_quirks=args.reference_quirks
        )
        line = {"id": name, "input_ids": encoded.tokens.tolist(), "labels": encoded.labels.tolist()}
        lines.append(json.dumps({**line, "note": encoded.note} if encoded.note else line))
    return "\n".join(lines)


def data(args: argparse.Namespace) -> str:
    """The splits of a prepared data set and their sizes."""
    if not args.data:
        raise UserError("jaxllava inspect data: set --data DIR (the records folder of jaxllava prepare)")
    return "\n".join(f"{split:<24} {size:>10} records" for split, size in records.splits(args.data).items())


def model(args: argparse.Namespace) -> str:
    """Shapes, dtypes and sizes of a model folder's parameters."""
    if not args.model:
        raise UserError("jaxllava inspect model: set --model DIR")
    from jaxllava import api, rules

    loaded = api.load(args.model)
    flat = rules.flatten(loaded.params)
    lines = [f"{path:<52} {leaf.dtype!s:<10} {tuple(leaf.shape)}" for path, leaf in sorted(flat.items())]
    total = sum(leaf.size for leaf in flat.values())
    return "\n".join([*lines, "", f"{total:,} parameters, template {loaded.template}"])


def checkpoint(args: argparse.Namespace) -> str:
    """Every tensor of a folder of weights, with a hash of its bytes; and whether they are those of its manifest."""
    from jaxllava.rules import flatten
    from jaxllava.weights import manifest, orbax
    from jaxllava.weights.lazy import Leaf
    from jaxllava.weights.tensor_files import TensorFiles

    if args.path is None and args.model is None:
        raise UserError("jaxllava inspect checkpoint: name a folder (jaxllava inspect checkpoint DIR)")
    folder = orbax.locate(args.path or args.model)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    ours = orbax.is_model_folder(folder)
    whole = flatten(orbax.open_model(folder).leaves) if ours else dict(TensorFiles(folder))
    found = {
        name: manifest.entry(
            part.parts() if isinstance(part, Leaf) else [part.read()], part.shape, part.dtype
        )
        for name, part in whole.items()
    }
    lines = [
        f"{name:<72} {entry['dtype']:<9} {tuple(entry['shape'])!s:<20} {entry['sha256'][:16]}"
        for name, entry in sorted(found.items())
    ]
    numbers = sum(math.prod(entry["shape"]) for entry in found.values())
    lines += ["", f"{len(found)} tensors, {numbers:,} numbers"]
    said = manifest.read(folder)
    if said is None:
        lines.append("no manifest.json: nothing to compare with")
    else:
        lines += manifest.differences(found, said) or ["all as manifest.json says"]
    return "\n".join(lines)


COMMANDS = {"checkpoint": checkpoint, "sample": sample, "tokens": tokens, "data": data, "model": model}
