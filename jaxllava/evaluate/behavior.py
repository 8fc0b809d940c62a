"""What a model knows of held-out posts' reactions: one pass over the posts for each kind, a row for each item.

Protocols as in Behavior-LLaVA (arXiv 2405.00942, sections 3 and 4): perplexity of comments, R2 of the like
rate; beside them rank correlations, the replay graph and the overlap of generated comments. Everything is
asked behind the true start of the record's own answer, whatever template wrote it. `behavior_figures` makes
figures of the rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxllava.api import Model
from jaxllava.evaluate.behavior_posts import HeldoutPosts, Post
from jaxllava.evaluate.item_log import ItemLog, Row
from jaxllava.prompts import Prompt
from jaxllava.videos import Video

BATCH = 16
_CHUNK = 4  # batches between two writes of results
NEW_TOKENS = (32, 512)  # least and most that are generated; twice the true list's lie between
NOT_FINITE = "got a score that is not finite"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Item:
    """One thing to score: the `number`-th comment or scene of a post, 0 of what it has once."""

    post: Post
    number: int


@dataclass(frozen=True)
class Pass:
    """One kind of reaction. `slot` names its part of an answer; `run` gives a row for each item, in order.

    `room` is how many positions an item takes at most; items are sorted by it. Only items of one `group` are run
    together. `settings` are what results depend on beside the model and the data.
    """

    slot: str
    run: Callable[[Model, HeldoutPosts, Sequence[Item], int], list[Row]]
    room: Callable[[Model, Item], int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    each: bool = True  # an item for each member of a list, else one a post
    group: Callable[[Model, Item], int] = lambda model, item: 0

    def items(self, posts: Sequence[Post]) -> list[Item]:
        return [
            Item(post, number)
            for post in posts
            for number in range(len(post.parts.get(self.slot, ())) if self.each else self.slot in post.parts)
        ]


Logs = dict[str, ItemLog]  # by pass


def open_logs(posts: Sequence[Post], make: Callable[[str, Mapping[str, Any]], ItemLog]) -> Logs:
    """The logs of the passes that these posts have something for. `make` is called with a pass's name and
    settings.
    """
    return {name: make(name, one.settings) for name, one in PASSES.items() if one.items(posts)}


def missing(posts: Sequence[Post], logs: Logs) -> int:
    """How many items have no row yet."""
    return sum(
        (item.post.id, item.number) not in log.rows
        for name, log in logs.items()
        for item in PASSES[name].items(posts)
    )


def rows(posts: Sequence[Post], logs: Logs) -> dict[str, list[Row]]:
    """By pass, the rows of these posts' items: a log may hold others as well."""
    return {
        name: [
            row
            for item in PASSES[name].items(posts)
            if (row := log.rows.get((item.post.id, item.number))) is not None
        ]
        for name, log in logs.items()
    }


def evaluate(model: Model, heldout: HeldoutPosts, logs: Logs, progress: Progress | None = None) -> None:
    """Scores what has no row yet. A row is {"id", "number", ...}, or {"id", "number", "problem": why} of an item that
    cannot be scored; what else it has is said with each pass.

    Args:
        logs: see `open_logs`; every few batches what was found is added.
        progress: called as progress(done, total) in items.
    """
    items = {name: PASSES[name].items(heldout.posts) for name in logs}
    total = sum(map(len, items.values()))
    done = total - missing(heldout.posts, logs)
    # The same for every call on these posts, so that a run that goes on compiles no other shapes.
    batch = min(BATCH, len(heldout.posts))
    for name, log in logs.items():
        left = [item for item in items[name] if (item.post.id, item.number) not in log.rows]
        chunks = _chunks(model, PASSES[name], left, batch * _CHUNK, log)
        done += len(left) - sum(map(len, chunks))
        for chunk in chunks:
            filled = chunk + [chunk[-1]] * (batch - len(chunk))
            found = PASSES[name].run(model, heldout, filled, batch)[: len(chunk)]
            log.add(
                {"id": item.post.id, "number": item.number, **row}
                for item, row in zip(chunk, found, strict=True)
            )
            done += len(chunk)
            if progress:
                progress(done, total)


def _chunks(model: Model, one: Pass, items: Sequence[Item], size: int, log: ItemLog) -> list[list[Item]]:
    """The items that fit into the model, of one group and of like length together; the others get their rows."""
    most = model.config.decoder.max_positions
    groups: dict[int, list[tuple[int, str, int, Item]]] = defaultdict(list)
    long = []
    for item in items:
        room = one.room(model, item)
        if room > most:
            why = f"takes more than the model's {most} positions"
            long.append({"id": item.post.id, "number": item.number, "problem": why})
        else:
            groups[one.group(model, item)].append((room, item.post.id, item.number, item))
    log.add(long)
    return [
        [item for *_, item in ordered[start : start + size]]
        for _, found in sorted(groups.items())
        for ordered in [sorted(found, key=lambda entry: entry[:3])]
        for start in range(0, len(ordered), size)
    ]


def _asked(
    heldout: HeldoutPosts, items: Sequence[Item], slot: str
) -> tuple[list[Prompt], list[list[bytes | Video]]]:
    """Questions and pictures."""
    pictures = {item.post.id: heldout.pictures(item.post) for item in items}
    asked = [item.post.asked(slot, item.number) for item in items]
    shown = [pictures[item.post.id][: one.shown] for item, one in zip(items, asked, strict=True)]
    return [one.prompt for one in asked], shown


def _room(model: Model, item: Item, slot: str, answer: str) -> int:
    """Positions of an item's prompt with the start of an answer."""
    asked = item.post.asked(slot, item.number)
    return model.length(asked.prompt, item.post.sizes[: asked.shown], answer)


# --- numbers -----------------------------------------------------------------------------------------------


def expectation(scores: np.ndarray, values: np.ndarray, widths: np.ndarray | float = 1.0) -> np.ndarray:
    """Means of `values` [C] under softmax(scores [N, C]) * widths [C], float64 [N]; NaN where a score is not finite.

    Widths make sums over an uneven grid stand for those over all values: each value for its neighbourhood.
    """
    finite = np.asarray(np.isfinite(scores).all(axis=1))
    shifted = np.where(finite[:, None], scores, 0.0)
    weights = np.exp(shifted - shifted.max(axis=1, keepdims=True)) * widths
    return np.where(finite, weights @ values / weights.sum(axis=1), np.nan)


def _numbers(slot: str, form: str, grid: np.ndarray, scale: float, each: bool = False) -> Pass:
    """A pass that predicts a number: its mean over `grid`, in the form in which answers print it.

    Rows: "predicted" and "true", both divided by `scale`.
    """
    candidates = [form.format(value) for value in grid]
    longest = max(map(len, candidates))
    widths = np.gradient(grid.astype(float))

    def run(model: Model, heldout: HeldoutPosts, items: Sequence[Item], batch: int) -> list[Row]:
        questions, images = _asked(heldout, items, slot)
        prefixes = [_before(item, slot) for item in items]
        scores = model.score(questions, images, candidates, answer_prefix=prefixes, batch_size=batch)
        predicted = expectation(scores, grid / scale, widths)
        return [
            {"predicted": float(value), "true": _truth(item, slot, scale)}
            if np.isfinite(value)
            else {"problem": NOT_FINITE}
            for value, item in zip(predicted, items, strict=True)
        ]

    def room(model: Model, item: Item) -> int:
        # A token is at least a character.
        return _room(model, item, slot, _before(item, slot)) + longest

    settings = {"candidates": len(candidates), "first": candidates[0], "last": candidates[-1]}
    return Pass(slot, run, room, settings, each)


def _before(item: Item, slot: str) -> str:
    return item.post.asked(slot, item.number).answer[: item.post.parts[slot][item.number].start]


def _truth(item: Item, slot: str, scale: float) -> float:
    if slot == "percent" and item.post.like_rate is not None:
        return float(item.post.like_rate)  # what the answer prints is rounded
    answer = item.post.asked(slot, item.number).answer
    return float(item.post.parts[slot][item.number].of(answer)) / scale


# Per cent. YouTube's likes by views lie below 10 and are told to a tenth; Reddit's shares of upvotes are whole
# numbers.
LIKE_GRID = np.concatenate([np.arange(0, 20, 2) / 10, np.arange(20, 100, 5) / 10, np.arange(10, 101)])


# --- comments ----------------------------------------------------------------------------------------------


def _score_comments(model: Model, heldout: HeldoutPosts, items: Sequence[Item], batch: int) -> list[Row]:
    """Rows: "log_probability" of the comment's tokens and "tokens", with the quote and line's end that close it: the
    tokens that training has there.

    A later comment is read behind the true ones in front of it.
    """
    questions, images = _asked(heldout, items, "comments")
    sums, counts = model.loglikelihood(
        questions,
        images,
        [_comment(item) for item in items],
        answer_prefix=[_before(item, "comments") for item in items],
        batch_size=batch,
    )
    return [
        {"log_probability": float(total), "tokens": int(count)}
        if np.isfinite(total)
        else {"problem": NOT_FINITE}
        for total, count in zip(sums, counts, strict=True)
    ]


def _comment(item: Item) -> str:
    return item.post.parts["comments"][item.number].closed(item.post.answer)


def _room_of_comment(model: Model, item: Item) -> int:
    return _room(model, item, "comments", _before(item, "comments") + _comment(item))


def _generate(model: Model, heldout: HeldoutPosts, items: Sequence[Item], batch: int) -> list[Row]:
    """Rows: the greedy "text" behind the true answer up to `1.`, of at most "new_tokens"."""
    questions, images = _asked(heldout, items, "comments")
    budget = _new_tokens(model, items[0])  # that of all of a group
    texts = model.generate(
        questions,
        images,
        max_new_tokens=budget,
        answer_prefix=[_list_begun(item) for item in items],
        batch_size=batch,
    )
    return [{"text": text, "new_tokens": budget} for text in texts]


def _list_begun(item: Item) -> str:
    """The true answer up to the first comment's number: its quote and the space before are the model's to write."""
    return _before(item, "comments").rstrip(' "')


def _new_tokens(model: Model, item: Item) -> int:
    """Twice the tokens of the true list, as the next power of two: few programs, and what an item gets depends on it
    alone.
    """
    spans = item.post.parts["comments"]
    tokens = len(model.tokenizer(item.post.answer[spans[0].start : spans[-1].end])["input_ids"])
    least, most = NEW_TOKENS
    return min(max(1 << (2 * tokens - 1).bit_length(), least), most)


def _room_to_generate(model: Model, item: Item) -> int:
    return _room(model, item, "comments", _list_begun(item)) + _new_tokens(model, item)


PASSES: dict[str, Pass] = {
    "comments": Pass("comments", _score_comments, _room_of_comment, {"closed": True}),
    "likes": _numbers("percent", "{:.1f}%", LIKE_GRID, 100),
    "memorability": _numbers("score", "{:02d}", np.arange(100), 99),
    "replay": _numbers("replay", "{:.2f}", np.arange(101) / 100, 1, each=True),
    "generated": Pass(
        "comments", _generate, _room_to_generate, {"new_tokens": NEW_TOKENS}, each=False, group=_new_tokens
    ),
}
