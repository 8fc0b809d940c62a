"""The cleaning funnel's steps on one post: pure functions, each returning what is left and what it dropped.

Follows the paper (arXiv 2405.00942) as it cleaned BLIFT; `Rules` holds every threshold.
Steps on many posts (duplicate media) are in `duplicates.py`, the Beam pipeline that runs them in `funnel.py`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

from input_pipeline.behavior import nsfw_words
from input_pipeline.behavior.similarity import near_duplicates
from input_pipeline.errors import UserError, nearest
from input_pipeline.types import Comment, Post

# The order of the rows of funnel.json.
STEPS = (
    "join",
    "media",
    "marked",
    "unreadable image",
    "duplicate media",
    "comment length",
    "near-duplicate comments",
    "word list",
    "few comments",
)


@dataclass(frozen=True)
class SourceRules:
    """Thresholds of one source. Where the paper names none, the default does nothing or says why."""

    min_words: int = 3
    max_words: int = 100  # the paper has it for YouTube only; longer comments crowd a training sequence
    similarity: float = 0.6  # comments at least this alike (cosine of TF-IDF) are one comment
    min_comments: int = 2
    min_views: int = 0
    created_from: str = ""  # a day such as "2018-01-01", UTC; posts of unknown time pass
    max_duration: float | None = None  # seconds; the paper: 500 for videos linked from Reddit


@dataclass(frozen=True)
class Rules:
    """All thresholds of the funnel."""

    reddit: SourceRules = SourceRules(created_from="2018-01-01")
    youtube: SourceRules = SourceRules(min_words=4, similarity=0.7, min_comments=0, min_views=10_001)
    other: SourceRules = SourceRules()
    drop_nsfw: bool = True
    drop_bots: bool = True
    drop_deleted: bool = True
    drop_duplicate_media: bool = True
    merge_comments: bool = True  # of repeated media, into the first post
    hash_distance: int = 8  # bits of 64 in which the difference hashes of one picture may differ
    thumbnail_distance: float = 4.0  # mean difference (of 255) of their 8x8 thumbnails
    nsfw_words: str = ""  # path of a word list; '' is our own short one
    use_word_list: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Rules:
        """Builds the rules from a ConfigDict or dict; an unknown name is a UserError."""
        values = dict(config)
        for name in ("reddit", "youtube", "other"):
            if name in values:
                default = getattr(cls(), name)
                values[name] = replace(default, **_checked(dict(values[name]), SourceRules, f"clean.{name}"))
        rules = cls(**_checked(values, cls, "clean"))
        for name in ("reddit", "youtube", "other"):
            _seconds(getattr(rules, name).created_from)  # for its error
        return rules

    def of(self, post: Post) -> SourceRules:
        """Returns the thresholds of the post's source."""
        return getattr(self, post.source, self.other)


def _checked(values: dict[str, Any], cls: type, where: str) -> dict[str, Any]:
    known = {f.name for f in fields(cls)}
    for name in values:
        if name not in known:
            raise UserError(f"{where}.{name}: no such setting.{nearest(name, known)}")
    return values


@dataclass(frozen=True)
class Drop:
    """One post (with the `comments` it still had) or one comment that a step took out, and why."""

    step: str
    source: str
    post_id: str
    origin: str
    reason: str
    comment_id: str | None = None
    comments: int = 1


@dataclass
class Outcome:
    """What a step leaves: the post, or None, and what it dropped."""

    post: Post | None
    drops: list[Drop] = field(default_factory=list)


Step = Callable[[Post, Rules], Outcome]


def drop_post(post: Post, step: str, reason: str) -> Outcome:
    """The outcome of a step that takes the post out with all its comments."""
    return Outcome(None, [Drop(step, post.source, post.id, post.origin, reason, None, len(post.comments))])


def keep_comments(post: Post, step: str, verdicts: Iterable[tuple[Comment, str]]) -> Outcome:
    """Keeps the comments whose verdict is '' and drops the others for that reason."""
    kept, drops = [], []
    for comment, reason in verdicts:
        if reason:
            drops.append(Drop(step, post.source, post.id, post.origin, reason, comment.id))
        else:
            kept.append(comment)
    return Outcome(replace(post, comments=tuple(kept)) if drops else post, drops)


def run(post: Post, steps: Iterable[Step], rules: Rules) -> Outcome:
    """Runs steps in order until one takes the post out."""
    drops: list[Drop] = []
    current: Post | None = post
    for step in steps:
        outcome = step(current, rules)
        drops += outcome.drops
        current = outcome.post
        if current is None:
            break
    return Outcome(current, drops)


# --- marked: NSFW, bots, deleted and removed ------------------------------------------------------

_DELETED = ("[deleted]", "[removed]", "[ removed by reddit ]", "[deleted by user]")
# "AutoModerator", "RemindMeBot", "imgur_rehost_bot", "BOT"; but not Abbot or Talbot.
_BOT_NAME = re.compile(r"automoderator|autotldr|.*[_\-\d]bot|bot[_\-].*|bot", re.IGNORECASE)
_BOT_NAME_CASED = re.compile(r".*[a-z\d](?:Bot|BOT)|.*Bot[_\-\d].*")
_BOT_TEXT = re.compile(
    r"\b(?:i am|i'm|this is) an? (?:\w+ )?bot\b|\bbeep boop\b|\bbot, and this action", re.IGNORECASE
)
_NSFW_MARK = re.compile(r"(?<!\w)(?:nsfw|nsfl)(?!\w)", re.IGNORECASE)


def is_bot(author: str | None, text: str) -> bool:
    """Whether an account's name or the text itself says that a bot wrote it."""
    if author and (_BOT_NAME.fullmatch(author) or _BOT_NAME_CASED.fullmatch(author)):
        return True
    return bool(_BOT_TEXT.search(text))


def is_deleted(author: str | None, text: str) -> bool:
    """Whether author or text is a mark of deletion; a comment whose account is gone counts too."""
    return (author or "").strip().lower() in _DELETED or text.strip().lower() in _DELETED


def marked(post: Post, rules: Rules) -> Outcome:
    """Takes out posts and comments marked NSFW, BOT, [deleted] or removed, and posts that break a source's
    limits.
    """
    limits = rules.of(post)
    reason = ""
    if rules.drop_nsfw and (post.nsfw or _NSFW_MARK.search(post.title)):
        reason = "marked NSFW"
    elif rules.drop_bots and is_bot(post.author, ""):
        reason = "posted by a bot"
    elif rules.drop_deleted and (post.extra.get("removed") or is_deleted(post.author, post.title)):
        reason = "deleted or removed"
    elif post.views is not None and post.views < limits.min_views:
        reason = "too few views"
    elif post.created is not None and post.created < _seconds(limits.created_from):
        reason = "too old"
    elif (
        limits.max_duration is not None and post.duration is not None and post.duration > limits.max_duration
    ):
        reason = "too long"
    if reason:
        return drop_post(post, "marked", reason)
    return keep_comments(post, "marked", ((comment, _mark(comment, rules)) for comment in post.comments))


@functools.cache
def _seconds(day: str) -> float:
    """Seconds since the epoch at the start of a day; '' is before all time."""
    if not day:
        return float("-inf")
    try:
        return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UserError(f"created_from={day!r} is not a day such as '2018-01-01'") from None


def _mark(comment: Comment, rules: Rules) -> str:
    if rules.drop_deleted and is_deleted(comment.author, comment.text):
        return "deleted or removed"
    if rules.drop_bots and is_bot(comment.author, comment.text):
        return "written by a bot"
    if rules.drop_nsfw and _NSFW_MARK.search(comment.text):
        return "marked NSFW"
    return ""


# --- comments -------------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_QUOTE = re.compile(r"^\s*>(?!!).*$", re.MULTILINE)
_MARKUP = re.compile(r"\*{1,3}|~~|`+|&#x200B;|^#{1,6} ", re.MULTILINE)


def plain_text(text: str) -> str:
    """Returns a comment as its reader saw it: links by their words, no URLs, quotes of others or Markdown
    signs.
    """
    text = _LINK.sub(r"\1", text)
    text = _URL.sub(" ", _QUOTE.sub(" ", text))
    return " ".join(_MARKUP.sub("", text).split())


def count_words(text: str) -> int:
    """Counts the words: runs of non-blanks with a letter or digit in them."""
    return sum(any(c.isalnum() for c in word) for word in text.split())


def by_popularity(comments: Iterable[Comment]) -> tuple[Comment, ...]:
    """Sorts comments by score, highest first; without scores they keep their order."""
    return tuple(sorted(comments, key=lambda c: -c.score if c.score is not None else 0))


def comment_length(post: Post, rules: Rules) -> Outcome:
    """Strips comments to plain text and takes out those with too few or too many words."""
    limits = rules.of(post)
    plain = [replace(c, text=plain_text(c.text)) for c in post.comments]

    def verdict(comment: Comment) -> str:
        words = count_words(comment.text)
        if words < limits.min_words:
            return f"fewer than {limits.min_words} words"
        return f"more than {limits.max_words} words" if words > limits.max_words else ""

    post = replace(post, comments=by_popularity(plain))
    return keep_comments(post, "comment length", [(c, verdict(c)) for c in post.comments])


def distinct_comments(post: Post, rules: Rules) -> Outcome:
    """Of comments that are nearly the same, keeps the most popular."""
    repeats = near_duplicates([c.text for c in post.comments], rules.of(post).similarity)
    verdicts = [(c, "repeats another" if i in repeats else "") for i, c in enumerate(post.comments)]
    return keep_comments(post, "near-duplicate comments", verdicts)


def word_list(post: Post, rules: Rules) -> Outcome:
    """Takes out posts and comments with a word of the NSFW list."""
    if not rules.use_word_list:
        return Outcome(post)
    pattern = nsfw_words.pattern(rules.nsfw_words)
    if pattern.search(post.title):
        return drop_post(post, "word list", "NSFW word in the title")
    verdicts = ((c, "NSFW word" if pattern.search(c.text) else "") for c in post.comments)
    return keep_comments(post, "word list", verdicts)


def few_comments(post: Post, rules: Rules) -> Outcome:
    """Takes out posts with too few comments left, or with no behaviour at all."""
    least = rules.of(post).min_comments
    if len(post.comments) < least:
        return drop_post(post, "few comments", f"fewer than {least} comments")
    if not post.comments and post.like_rate is None:
        return drop_post(post, "few comments", "neither likes nor comments")
    return Outcome(post)


BEFORE_MEDIA: tuple[Step, ...] = (marked,)
AFTER_MEDIA: tuple[Step, ...] = (comment_length, distinct_comments, word_list, few_comments)
