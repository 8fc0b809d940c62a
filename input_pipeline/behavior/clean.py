"""The cleaning funnel's steps on one post: pure functions, each returning what is left and what it dropped.

Follows the paper (arXiv 2405.00942) as it cleaned BLIFT; `rules.Rules` holds every threshold. Steps on many
posts are in `duplicates.py` (media) and `similarity.py` (comments); `stages.py` runs them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec.structs import replace

from input_pipeline.behavior import language, nsfw_words
from input_pipeline.behavior import rules as rules_
from input_pipeline.behavior.rules import Rules, SourceRules
from input_pipeline.behavior.similarity import near_duplicates
from input_pipeline.types import Comment, Post

# The order of the rows of funnel.json, and of the steps.
STEPS = (
    "join",
    "media",
    "date",
    "excluded",
    "views",
    "duration",
    "marked",
    "evaluation set",
    "unreadable image",
    "duplicate media",
    "comment length",
    "near-duplicate comments",
    "word list",
    "language",
    "few comments",
)


class Drop(msgspec.Struct, frozen=True):
    """One post (with the `comments` it still had) or one comment that a step took out, and why.

    `comment_id` None is the post itself. '' stands for `comments` comments without their post. `text` is the
    title or the comment, for the report.
    """

    step: str
    source: str
    post_id: str
    origin: str
    reason: str
    comment_id: str | None = None
    comments: int = 1
    text: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """What a step leaves: the post, or None, and what it dropped."""

    post: Post | None
    drops: Sequence[Drop] = ()


Step = Callable[[Post, Rules], Outcome]


def drop_post(post: Post, step: str, reason: str, lost: int | None = None) -> Drop:
    """The drop of a post with `lost` comments, all it has unless told."""
    count = len(post.comments) if lost is None else lost
    return Drop(step, post.source, post.id, post.origin, reason, None, count, post.title)


def _without(post: Post, step: str, reason: str) -> Outcome:
    return Outcome(None, [drop_post(post, step, reason)])


def _keep(post: Post, step: str, verdicts: Iterable[tuple[Comment, str]]) -> Outcome:
    """Keeps the comments whose verdict is '' and drops the others for that reason."""
    kept: list[Comment] = []
    drops: list[Drop] = []
    for comment, reason in verdicts:
        if reason:
            drops.append(Drop(step, post.source, post.id, post.origin, reason, comment.id, 1, comment.text))
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


# --- the post itself ------------------------------------------------------------------------------


def date(post: Post, rules: Rules) -> Outcome:
    """Takes out posts from before or after the source's days; a post of unknown time passes."""
    limits = rules.of(post)
    first, end = rules_.seconds(limits.created_from), rules_.seconds(limits.created_until)
    if post.created is not None and first is not None and post.created < first:
        return _without(post, "date", "too old")
    if post.created is not None and end is not None and post.created >= end:
        return _without(post, "date", "too new")
    return Outcome(post)


def excluded(post: Post, rules: Rules) -> Outcome:
    """Takes out posts of communities and categories that are not wanted."""
    limits = rules.of(post)
    community = post.community.casefold()
    if limits.communities and community not in (name.casefold() for name in limits.communities):
        return _without(post, "excluded", "of another community")
    if community in (name.casefold() for name in limits.exclude_communities):
        return _without(post, "excluded", "of an excluded community")
    unwanted = {name.casefold() for name in limits.exclude_categories}
    if any(name.casefold() in unwanted for name in post.categories):
        return _without(post, "excluded", "of an excluded category")
    return Outcome(post)


def views(post: Post, rules: Rules) -> Outcome:
    """Takes out posts that too few have seen."""
    if post.views is not None and post.views < rules.of(post).min_views:
        return _without(post, "views", "too few views")
    return Outcome(post)


def duration(post: Post, rules: Rules) -> Outcome:
    """Takes out long videos."""
    limit = rules.of(post).max_duration
    if limit is not None and post.duration is not None and post.duration > limit:
        return _without(post, "duration", "too long")
    return Outcome(post)


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
    if author:
        lower = author.lower()  # most names hold neither word, which is quickly seen
        if ("bot" in lower or "auto" in lower) and (
            _BOT_NAME.fullmatch(author) or _BOT_NAME_CASED.fullmatch(author)
        ):
            return True
    lower = text.lower()
    return ("bot" in lower or "beep" in lower) and bool(_BOT_TEXT.search(text))


def is_deleted(author: str | None, text: str) -> bool:
    """Whether author or text is a mark of deletion; a comment whose account is gone counts too."""
    return (author or "").strip().lower() in _DELETED or text.strip().lower() in _DELETED


def _is_nsfw(text: str) -> bool:
    lower = text.lower()
    return ("nsfw" in lower or "nsfl" in lower) and bool(_NSFW_MARK.search(text))


def marked(post: Post, rules: Rules) -> Outcome:
    """Takes out posts and comments marked NSFW, BOT, [deleted] or removed."""
    reason = ""
    if rules.drop_nsfw and (post.nsfw or _is_nsfw(post.title)):
        reason = "marked NSFW"
    elif rules.drop_bots and is_bot(post.author, ""):
        reason = "posted by a bot"
    elif rules.drop_deleted and (post.removed or is_deleted(post.author, post.title)):
        reason = "deleted or removed"
    if reason:
        return _without(post, "marked", reason)
    return _keep(post, "marked", [(comment, _mark(comment, rules)) for comment in post.comments])


def _mark(comment: Comment, rules: Rules) -> str:
    if rules.drop_deleted and is_deleted(comment.author, comment.text):
        return "deleted or removed"
    if rules.drop_bots and is_bot(comment.author, comment.text):
        return "written by a bot"
    if rules.drop_nsfw and _is_nsfw(comment.text):
        return "marked NSFW"
    return ""


# --- comments -------------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*(?:\s+\"[^\"]*\")?\)")
_URL = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)
_QUOTE = re.compile(r"^\s*>(?!!).*$", re.MULTILINE)
_MARKUP = re.compile(r"\*{1,3}|~~|`+|&#x200B;|^#{1,6} ", re.MULTILINE)
_WORD = re.compile(r"[^\W_]\S*")


def plain_text(text: str) -> str:
    """Returns a comment as its reader saw it: links by their words, no URLs, quotes of others or Markdown
    signs.
    """
    # Most comments are plain already, which a look for single characters tells sooner than a pattern.
    if (
        "[" in text
        or "*" in text
        or ">" in text
        or "/" in text
        or "&" in text
        or "#" in text
        or "~" in text
        or "`" in text
        or "w." in text
        or "W." in text
    ):
        text = _LINK.sub(r"\1", text)
        text = _URL.sub(" ", _QUOTE.sub(" ", text))
        text = _MARKUP.sub("", text)
    return " ".join(text.split())


def count_words(text: str) -> int:
    """Counts the words: runs of non-blanks with a letter or digit in them."""
    return len(_WORD.findall(text))


def _length(text: str, limits: SourceRules) -> str:
    """Returns '' or in what way a comment's length is wrong."""
    # Most have enough words at their beginning and are too short for too many; the rest is counted.
    if len(text) < 2 * limits.max_words and len(_WORD.findall(text, 0, 64)) > limits.min_words:
        return ""
    words = count_words(text)
    if words < limits.min_words:
        return f"fewer than {limits.min_words} words"
    return f"more than {limits.max_words} words" if words > limits.max_words else ""


def by_popularity(comments: Iterable[Comment]) -> tuple[Comment, ...]:
    """Sorts comments by score, highest first; without scores they keep their order."""
    return tuple(sorted(comments, key=lambda c: -c.score if c.score is not None else 0))


def comment_length(post: Post, rules: Rules) -> Outcome:
    """Strips comments to plain text and takes out those with too few or too many words."""
    limits = rules.of(post)
    verdicts: list[tuple[Comment, str]] = []
    for comment in by_popularity(post.comments):
        text = plain_text(comment.text)
        if text != comment.text:
            comment = replace(comment, text=text)
        verdicts.append((comment, _length(text, limits)))
    return _keep(replace(post, comments=tuple(c for c, _ in verdicts)), "comment length", verdicts)


def distinct_comments(posts: Sequence[Post], rules: Rules) -> list[Outcome]:
    """Of each post's comments that are nearly the same, keeps the most popular. Many posts cost less at once."""
    texts = [[comment.text for comment in post.comments] for post in posts]
    found = near_duplicates(texts, [rules.of(post).similarity for post in posts])
    return [
        _keep(
            post,
            "near-duplicate comments",
            [(c, "repeats another" if i in repeats else "") for i, c in enumerate(post.comments)],
        )
        for post, repeats in zip(posts, found, strict=True)
    ]


def word_list(post: Post, rules: Rules) -> Outcome:
    """Takes out posts and comments with a word of the NSFW list."""
    if not rules.use_word_list:
        return Outcome(post)
    holds = nsfw_words.finder(rules.nsfw_words)
    if holds(post.title):
        return _without(post, "word list", "NSFW word in the title")
    return _keep(post, "word list", [(c, "NSFW word" if holds(c.text) else "") for c in post.comments])


def in_language(post: Post, rules: Rules) -> Outcome:
    """Takes out posts and comments that are surely in another language than those wanted.

    A post is judged by its title and comments together: a title alone is often too short to tell.
    """
    wanted = rules.of(post).languages
    if not wanted:
        return Outcome(post)
    whole = " ".join((post.title, *(comment.text for comment in post.comments[:20])))
    if language.is_foreign(whole, wanted, rules.language_score):
        return _without(post, "language", "in another language")
    verdicts = [
        (c, "in another language" if language.is_foreign(c.text, wanted, rules.language_score) else "")
        for c in post.comments
    ]
    return _keep(post, "language", verdicts)


def few_comments(post: Post, rules: Rules) -> Outcome:
    """Takes out posts with too few comments left, or with no behaviour at all."""
    least = rules.of(post).min_comments
    if len(post.comments) < least:
        return _without(post, "few comments", f"fewer than {least} comments")
    if not post.comments and post.like_rate is None and not post.replay:
        return _without(post, "few comments", "no likes, comments or replay graph")
    return Outcome(post)


BEFORE_MEDIA: tuple[Step, ...] = (date, excluded, views, duration, marked)
AFTER_MEDIA: tuple[Step, ...] = (comment_length,)  # then distinct_comments, many posts at a time
LAST: tuple[Step, ...] = (word_list, in_language, few_comments)
