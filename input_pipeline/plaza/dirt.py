"""Planted dirt: all that makes real dumps hard to read, in the places that `gold.json["dirt"]` lists."""

from __future__ import annotations

from typing import Literal

import numpy as np

from input_pipeline.plaza.feed import Draft, Entry
from input_pipeline.plaza.language import pick

Site = Literal["reddit", "youtube", "any"]

# What a post may be instead of clean, its share of all posts, and which site has it. Each occurs at least
# once in a corpus of 100 posts or more. The last five are broken input, about one post in a hundred together.
ROLES: dict[str, tuple[float, Site]] = {
    "nsfw_posts": (0.02, "any"),
    "reposts": (0.02, "reddit"),
    "near_duplicate_media": (0.02, "reddit"),
    "few_comments": (0.03, "any"),
    "deleted_posts": (0.01, "reddit"),
    "few_views": (0.006, "youtube"),
    "old_posts": (0.01, "reddit"),
    "unreadable_media": (0.003, "any"),
    "missing_media": (0.003, "any"),
    "broken_lines": (0.002, "reddit"),
    "broken_files": (0.001, "youtube"),
    "missing_fields": (0.003, "reddit"),
}
# The same of films: each occurs at least once in a hundred films. The last four have no film that can be seen whole,
# or no info file that can be read.
FILM_ROLES: dict[str, float] = {
    "films_without_heatmap": 0.05,  # as of videos that few have seen
    "films_without_comments": 0.03,  # they were turned off, or not asked for
    "films_with_few_comments": 0.03,
    "films_with_hidden_likes": 0.02,
    "films_with_few_views": 0.01,
    "nsfw_films": 0.02,
    "missing_films": 0.01,
    "unreadable_films": 0.01,
    "cut_films": 0.02,
    "broken_film_infos": 0.01,
}
# Kinds of planted comments, listed by comment id.
COMMENT_KINDS = (
    "bot_comments",
    "deleted_comments",
    "removed_comments",
    "nsfw_comments",
    "near_duplicate_comments",
)
NSFW_WORDS = ("nude", "erotic", "horny")  # mild placeholders; each is on the usual public lists

_AUTOMODERATOR = (
    "Thank you for your submission. *I am a bot, and this action was performed automatically. Please contact "
    "the moderators of this subreddit if you have any questions or concerns.*"
)
_BOTS = (
    ("repost_sleuth", "I checked 12,301,442 images and found no earlier post. I am a bot."),
    ("haiku_counter_bot", "beep boop, I am a bot and I count syllables: 5 - 7 - 5"),
    ("RemindMeBot", "I will be messaging you in 7 days. I am a bot, reply STOP to end."),
)


def assign(posts: int, is_reddit: np.ndarray, rng: np.random.Generator) -> dict[int, str]:
    """Gives a role to some posts: index -> role; all other posts are clean. `is_reddit` bool [posts].

    The first tenth of the posts stays clean, so that there is always something to repost.
    """
    order = [int(i) for i in rng.permutation(np.arange(posts // 10, posts))]
    roles: dict[int, str] = {}
    for role, (share, site) in ROLES.items():
        wanted = max(round(share * posts), 1 if posts >= 100 else 0)
        fitting = [
            i for i in order if i not in roles and (site == "any" or is_reddit[i] == (site == "reddit"))
        ]
        roles.update(dict.fromkeys(fitting[:wanted], role))
    return roles


def assign_films(films: int, rng: np.random.Generator) -> dict[int, str]:
    """Gives a role of `FILM_ROLES` to some films: index -> role; all others are clean."""
    free = iter(rng.permutation(films).tolist())
    wanted = (
        (role, max(round(share * films), 1 if films >= 100 else 0)) for role, share in FILM_ROLES.items()
    )
    return {next(free): role for role, count in wanted for _ in range(count)}


def plant_comments(draft: Draft, reddit: bool, rng: np.random.Generator) -> None:
    """Adds and spoils comments of a post, in place. Spoilt ones get their dirt as `kind`."""
    for entry in draft.entries:
        roll = rng.random()
        if reddit and roll < 0.02:
            entry.text, entry.author, entry.kind = "[deleted]", "[deleted]", "deleted_comments"
        elif reddit and roll < 0.035:
            entry.text, entry.kind = "[removed]", "removed_comments"
        elif roll < 0.05:
            entry.text, entry.kind = f"{entry.text} {pick(rng, NSFW_WORDS)}", "nsfw_comments"
        elif reddit and roll < 0.06:  # the account is gone, the words are still there: not dirt by itself
            entry.author = "[deleted]"
    if draft.entries and rng.random() < 0.2:
        source = draft.entries[int(rng.integers(len(draft.entries)))]
        if source.kind not in COMMENT_KINDS and len(source.text.split()) > 3:
            ending = pick(rng, ("!!", " ...", " this", " 😂"))
            text = (source.text.lower() if rng.random() < 0.5 else source.text) + ending
            copycat = f"{source.author}_2" if source.author != "[deleted]" else "copycat"
            delay = source.delay + 900
            draft.entries.append(
                Entry(text, copycat, max(0, source.score // 3), "near_duplicate_comments", None, delay)
            )
    if rng.random() < (0.1 if reddit else 0.04):
        if reddit and rng.random() < 0.7:
            extra = {"distinguished": "moderator", "stickied": True}
            draft.entries.append(Entry(_AUTOMODERATOR, "AutoModerator", 1, "bot_comments", None, 1.0, extra))
        else:
            author, text = _BOTS[int(rng.integers(len(_BOTS)))]
            draft.entries.append(Entry(text, author, int(rng.integers(0, 9)), "bot_comments", None, 30.0))


def truncate(data: bytes, rng: np.random.Generator) -> bytes:
    """Cuts a file in its first third, as broken downloads are."""
    return data[: int(len(data) * rng.uniform(0.05, 0.3))]


def cut_film(data: bytes, role: str, rng: np.random.Generator) -> bytes:
    """Breaks an mp4 off: in the index at its front ("unreadable_films"), or behind some scenes ("cut_films")."""
    low, high = (0.005, 0.02) if role == "unreadable_films" else (0.4, 0.7)
    return data[: int(len(data) * rng.uniform(low, high))]


def spoil(draft: Draft, role: str, rng: np.random.Generator) -> None:
    """Turns a whole post into dirt of a role, in place, as far as that is a matter of its fields."""
    if role in ("nsfw_posts", "nsfw_films"):
        draft.over_18 = True
    elif role == "deleted_posts":
        draft.author = "[deleted]"
    elif role == "old_posts":  # from the years when the picture subreddits still allowed anything
        draft.created = int(rng.integers(1_280_000_000, 1_420_000_000))
    elif role in ("few_views", "films_with_few_views"):
        share = draft.reaction.likes / draft.reaction.views
        draft.views = int(rng.integers(200, 8000))
        draft.likes = round(draft.views * share)
        draft.like_rate = round(draft.likes / draft.views, 4)
