"""What sharing the prompt among candidates saves: `python -m benchmarks.candidates`.

Scores a picture's question with each of N candidate answers in three ways, in turn, in one run: `shared` is
`Model.score` (picture and prompt run once, all candidates behind them in one pass), `each` is one forward pass
of the same kind for every candidate, in full batches, as evaluation harnesses ask for log-likelihoods,
`prompt` is the prompt with a single candidate. Prints the largest difference of the log-probabilities, and
exits with 1 where it is above 1e-3.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from input_pipeline.tokenizer import train_tokenizer
from jaxllava.api import Model
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, init_params

TOPICS = [
    "restaurants and cafes",
    "chocolate and candy",
    "snacks and cereal",
    "seasoning and condiments",
    "pet food",
    "alcohol",
    "coffee and tea",
    "soda and juice",
    "cars",
    "electronics",
    "phones and internet",
    "banks and loans",
    "education",
    "beauty products",
    "healthcare",
    "clothes",
    "baby products",
    "games and toys",
    "cleaning products",
    "home improvement",
    "furniture",
    "travel",
    "media and arts",
    "sports equipment",
    "shopping",
    "gambling",
    "environment",
    "animal rights",
    "human rights",
    "safety",
    "smoking and drugs",
    "domestic violence",
    "self esteem",
    "political candidates",
    "charities",
    "insurance",
    "dating",
    "something else",
]
TOLERANCE = 1e-3


def model(layers: int, width: int, folder: Path) -> Model:
    """A random LLaVA with LLaVA-1.5's 576 positions for a picture."""
    words = [f"USER: which topic is it ASSISTANT: {topic}." for topic in TOPICS]
    tokenizer = train_tokenizer(words * 3, 600, folder)
    vision = ClipVisionConfig(256, 1024, 4, 4, image_size=336, patch_size=14)
    decoder = LlamaConfig(len(tokenizer), width, width * 11 // 4, layers, 8, initializer_range=0.04)
    config = LlavaConfig(vision, decoder, tokenizer.convert_tokens_to_ids("<image>"))
    return Model(config, init_params(config, jax.random.key(0)), tokenizer, "vicuna_v1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--candidates", type=int, default=38)
    parser.add_argument("--questions", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    answers = (TOPICS * (args.candidates // len(TOPICS) + 1))[: args.candidates]
    asked = model(args.layers, args.width, args.folder / "tokenizer")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 255, (480, 640, 3), np.uint8)) for _ in range(args.questions)]
    prompts = ["Which topic is this advertisement about? Answer with the topic."] * args.questions

    def shared() -> np.ndarray:
        return asked.score(prompts, images, answers, end=False, batch_size=args.questions)

    def each() -> np.ndarray:
        many = [prompt for prompt in prompts for _ in answers]
        pictures = [image for image in images for _ in answers]
        sums, _ = asked.loglikelihood(many, pictures, answers * args.questions, batch_size=args.candidates)
        return sums.reshape(args.questions, len(answers))

    def prompt() -> np.ndarray:
        return asked.score(prompts, images, answers[:1], end=False, batch_size=args.questions)

    ways: dict[str, Callable[[], np.ndarray]] = {"shared": shared, "each": each, "prompt": prompt}
    difference = float(np.abs(shared() - each()).max())  # and everything is compiled
    prompt()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    per_question = {name: statistics.median(found) / args.questions for name, found in seconds.items()}
    ratios = [b / a for a, b in zip(seconds["shared"], seconds["each"], strict=True)]
    found = {
        "candidates": args.candidates,
        "seconds a question": {name: round(value, 4) for name, value in per_question.items()},
        "each / shared": {"median": round(statistics.median(ratios), 1), "least": round(min(ratios), 1)},
        "shared / prompt": round(per_question["shared"] / per_question["prompt"], 2),
        "largest difference, nats": difference,
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
    }
    print(json.dumps(found, indent=1))
    if difference > TOLERANCE:
        raise SystemExit(f"the log-probabilities differ by {difference}")


if __name__ == "__main__":
    main()
