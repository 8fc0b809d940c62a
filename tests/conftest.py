"""Settings and small shared data of all tests. Eight simulated devices, so that sharding is real."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from importlib.metadata import version

# Compiling is most of what the tests do: without XLA's fusion emitters it takes two thirds to nine tenths of the time.
# Only where the flag is known to exist, for XLA ends a process at one that it does not know.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from input_pipeline.types import Record, Turn

# What one process compiled the others read. Set before jax is imported and before xdist starts its processes; it
# goes when the first of them ends.
_cache = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="jaxllava-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

WORDS = [
    *("red", "blue", "green", "cups", "stars", "boats", "one", "two", "three", "soothing"),
    *("What", "is", "this", "How", "many", "are", "there", "Nice"),
]


@pytest.fixture(scope="module", autouse=True)
def _programs_of_one_module():
    """A compiled program holds memory maps: those of the whole suite are more than Linux gives a process (65,530)."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(scope="module")
def compiled_quickly():
    """For tests of what a program does, and not of how near its numbers are to another library's: XLA compiles in
    about two thirds of the time, for code that runs more slowly.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A small byte-level BPE tokenizer, saved and loaded again."""
    from input_pipeline.tokenizer import load_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([f"USER: {word} ASSISTANT: {word}." for word in WORDS] * 5, 360, folder)
    return load_tokenizer(folder)


def png(seed: int, size: int = 20) -> bytes:
    """A random picture as PNG bytes."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def chat_records() -> list[Record]:
    """Twelve conversations: two in three about an image, of varied lengths."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(12):
        with_image = number % 3 != 2
        turns = []
        for turn in range(int(rng.integers(1, 3))):
            question = " ".join(rng.choice(WORDS, int(rng.integers(2, 6))))
            mark = "<image>\n" if with_image and turn == 0 else ""
            turns += [Turn("human", mark + question), Turn("gpt", " ".join(rng.choice(WORDS, 3)))]
        images = (png(number),) if with_image else ()
        made.append(Record(f"r{number}", "instruct", images, tuple(turns)))
    return made


@pytest.fixture
def asker(tmp_path) -> Any:
    """A tokenizer of questions in BERT's format, with few words."""
    return make_asker(tmp_path / "bert")


def make_asker(folder: Path) -> Any:
    """Writes a folder as bert-base-uncased has it, with few words, and opens it."""
    from input_pipeline.asker import Asker

    folder.mkdir()
    text = "what is it in the color of red blue green how many cups stars a describe image video ? ! . ,"
    words = text.split(" ")
    letters = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(dict.fromkeys([*specials, *words, *letters])) + "\n")
    (folder / "config.json").write_text('{"model_type": "bert"}')
    return Asker.load(folder)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real reaction records and images, where the machine has them (they may not be part of the project)."""
    folder = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[1] / "../shared/data"))
    if not folder.is_dir():
        pytest.skip("no real data here: set JAXLLAVA_REAL_DATA")
    return folder.resolve()


@pytest.fixture(scope="session")
def plaza(tmp_path_factory) -> Path:
    """A tiny plaza corpus, prepared: `raw/`, `gold.json`, `data/records`, `tokenizer/`."""
    from configs.prepare import get_config
    from input_pipeline.plaza import write
    from input_pipeline.prepare import prepare
    from jaxllava.quickstart import make_tokenizer

    folder = tmp_path_factory.mktemp("plaza")
    write.write(folder, seed=0, posts=60, instruct=40, texts=40, chats=40)
    prepare(get_config(f"raw={folder / 'raw'}"), folder / "data")
    make_tokenizer(folder / "data" / "records", folder / "tokenizer", 400)
    return folder


@pytest.fixture(scope="session")
def tiny_base(plaza) -> Path:
    """A tiny LLaVA with plaza's tokenizer, as a model folder beside plaza's data."""
    import jax

    from input_pipeline.tokenizer import load_tokenizer
    from jaxllava.models.clip import ClipVisionConfig
    from jaxllava.models.llama import LlamaConfig
    from jaxllava.models.llava import LlavaConfig, init_params
    from jaxllava.weights import orbax

    tokenizer = load_tokenizer(plaza / "tokenizer")
    vision = ClipVisionConfig(16, 32, 2, 2, image_size=32, patch_size=16)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    model = LlavaConfig(vision, decoder, tokenizer.convert_tokens_to_ids("<image>"))
    orbax.save_model(plaza / "base", init_params(model, jax.random.key(0)), model, tokenizer, "v1_bare")
    return plaza / "base"
