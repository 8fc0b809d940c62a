"""The raw formats: one reaction -> a Reddit submission and comments, or a yt-dlp info file with comments.

Field names and types follow real monthly dumps (Pushshift, Arctic Shift) and yt-dlp 2024; only fields that
readers rely on are written. Community names, authors, tags and dates are drawn without looking at mood or
topic.
"""

from __future__ import annotations

import datetime
import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from input_pipeline.plaza import world
from input_pipeline.plaza.audience import Reaction, people
from input_pipeline.plaza.language import pick
from input_pipeline.plaza.scene import Scene

SUBREDDITS = ("pics", "pics", "pics", "drawings", "smallpictures", "plaza")
CHANNELS = (
    "Little Pictures",
    "Plaza Daily",
    "Draw With Me",
    "Ninety Six",
    "The Sketch Shelf",
    "Corner Studio",
)
_FIRST_DAY, _LAST_DAY = 1517443200, 1640908800  # 2018-02-01 and 2021-12-31, UTC
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def base36(number: int) -> str:
    """Writes a number as Reddit writes ids."""
    text = ""
    while number:
        number, rest = divmod(number, 36)
        text = _BASE36[rest] + text
    return text or "0"


def reddit_id(index: int, rng: np.random.Generator) -> str:
    """A submission id: unique for every index, and telling nothing but it."""
    return base36(1_700_000_000 + 41 * index + int(rng.integers(41)))


def youtube_id(rng: np.random.Generator) -> str:
    """An 11-character video id."""
    return "".join(_BASE64[int(i)] for i in rng.integers(len(_BASE64), size=11))


def posting_time(rng: np.random.Generator) -> int:
    """A simulated time of posting, in seconds since the epoch."""
    return int(rng.integers(_FIRST_DAY, _LAST_DAY))


@dataclass
class Entry:
    """One comment on its way into a raw file. `kind` is the simulation's, or the dirt it was planted as."""

    text: str
    author: str
    score: int
    kind: str
    reply_to: int | None = None  # index of an earlier entry
    delay: float = 60.0
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Draft:
    """One post before it is written. Dirt edits it; `submission` and `video` turn it into raw records."""

    id: str
    title: str
    scene: Scene
    reaction: Reaction
    created: int
    author: str
    entries: list[Entry]
    over_18: bool = False
    views: int = 0
    likes: int = 0
    like_rate: float = 0.0  # as the raw file shows it: likes/views, or the upvote ratio


def comment_id(draft: Draft, index: int, reddit: bool) -> str:
    """The id of the comment at `index` below a post, in the manner of the site."""
    if reddit:
        return f"{draft.id}{base36(36 + index)}"
    return f"Ugz{draft.id}{index:02d}4AaABAg"


def submission(draft: Draft, file_name: str, rng: np.random.Generator) -> dict[str, Any]:
    """A Reddit submission. `ups`/(`ups`+downs) follows the same chance as likes/views of a video."""
    voters = max(20, draft.views // 40)
    ups = int(rng.binomial(voters, draft.reaction.rate))
    subreddit = pick(rng, SUBREDDITS)
    score = max(0, 2 * ups - voters)
    slug = "_".join(world.words(draft.title)[:8]) or "post"
    return {
        "all_awardings": [],
        "archived": True,
        "author": draft.author,
        "author_fullname": None if draft.author == "[deleted]" else f"t2_{abs(hash_name(draft.author)):x}",
        "created": float(draft.created),
        "created_utc": draft.created,
        "distinguished": None,
        "domain": "i.redd.it",
        "downs": 0,
        "edited": False,
        "hidden": False,
        "id": draft.id,
        "is_gallery": False,
        "is_original_content": False,
        "is_reddit_media_domain": True,
        "is_self": False,
        "is_video": False,
        "link_flair_text": None,
        "locked": False,
        "media": None,
        "name": f"t3_{draft.id}",
        "num_comments": len(draft.entries),
        "num_crossposts": 0,
        "over_18": draft.over_18,
        "permalink": f"/r/{subreddit}/comments/{draft.id}/{slug}/",
        "pinned": False,
        "post_hint": "image",
        "removed_by_category": None,
        "retrieved_on": draft.created + 40 * 86400,
        "score": score,
        "selftext": "",
        "spoiler": False,
        "stickied": False,
        "subreddit": subreddit,
        "subreddit_id": f"t5_{abs(hash_name(subreddit)):x}",
        "subreddit_name_prefixed": f"r/{subreddit}",
        "thumbnail": "nsfw" if draft.over_18 else f"https://b.thumbs.redditmedia.com/{draft.id}.jpg",
        "title": html.escape(draft.title, quote=False),  # dumps hold '&amp;'
        "total_awards_received": 0,
        "ups": score,
        "upvote_ratio": round(ups / voters, 2),
        "url": f"https://i.redd.it/{file_name}",
        "url_overridden_by_dest": f"https://i.redd.it/{file_name}",
        "view_count": None,
    }


def hash_name(name: str) -> int:
    """A small stable number for a name (Python's own hash differs between processes)."""
    value = 7
    for letter in name:
        value = (value * 131 + ord(letter)) % 2_147_483_647
    return value


def reddit_comments(draft: Draft, subreddit: str) -> list[dict[str, Any]]:
    """The comments of a submission in the order of writing, linked by `link_id` and `parent_id`."""
    rows = []
    for index, entry in enumerate(draft.entries):
        own = comment_id(draft, index, reddit=True)
        parent = (
            f"t3_{draft.id}" if entry.reply_to is None else f"t1_{comment_id(draft, entry.reply_to, True)}"
        )
        rows.append(
            {
                "archived": True,
                "author": entry.author,
                "author_flair_text": None,
                "author_fullname": None if entry.author == "[deleted]" else f"t2_{hash_name(entry.author):x}",
                "body": html.escape(entry.text, quote=False),
                "controversiality": 0,
                "created_utc": draft.created + int(entry.delay),
                "distinguished": None,
                "edited": False,
                "id": own,
                "is_submitter": entry.author == draft.author,
                "link_id": f"t3_{draft.id}",
                "locked": False,
                "name": f"t1_{own}",
                "parent_id": parent,
                "permalink": f"/r/{subreddit}/comments/{draft.id}/_/{own}/",
                "retrieved_on": draft.created + 40 * 86400,
                "score": entry.score,
                "score_hidden": False,
                "stickied": False,
                "subreddit": subreddit,
                "total_awards_received": 0,
                "ups": entry.score,
                **entry.extra,
            }
        )
    return rows


def video(draft: Draft, rng: np.random.Generator) -> dict[str, Any]:
    """A yt-dlp info file with comments; its thumbnail lies beside it as `<id>.jpg`."""
    channel = pick(rng, CHANNELS)
    handle = channel.replace(" ", "").lower()
    duration = int(rng.integers(8, 240))
    day = datetime.datetime.fromtimestamp(draft.created, datetime.UTC)
    address = f"https://www.youtube.com/watch?v={draft.id}"
    comments = []
    for index, entry in enumerate(draft.entries):
        own = comment_id(draft, index, reddit=False)
        comments.append(
            {
                "id": own,
                "parent": "root" if entry.reply_to is None else comment_id(draft, entry.reply_to, False),
                "text": entry.text,
                "like_count": max(0, entry.score),
                "author": f"@{entry.author}",
                "author_id": f"UC{hash_name(entry.author):022d}",
                "author_is_uploader": False,
                "author_is_verified": False,
                "is_favorited": False,
                "is_pinned": False,
                "timestamp": draft.created + int(entry.delay),
                "_time_text": "2 years ago",
            }
        )
    return {
        "id": draft.id,
        "title": draft.title,
        "fulltitle": draft.title,
        "description": f"A drawing a day. {address}",
        "channel": channel,
        "channel_id": f"UC{hash_name(channel):022d}",
        "channel_url": f"https://www.youtube.com/@{handle}",
        "channel_follower_count": 1000 + hash_name(channel) % 90_000,
        "uploader": channel,
        "uploader_id": f"@{handle}",
        "uploader_url": f"https://www.youtube.com/@{handle}",
        "upload_date": day.strftime("%Y%m%d"),
        "timestamp": draft.created,
        "duration": duration,
        "duration_string": f"{duration // 60}:{duration % 60:02d}",
        "view_count": draft.views,
        "like_count": draft.likes,
        "comment_count": len(comments),
        "comments": comments,
        "average_rating": None,
        "age_limit": 18 if draft.over_18 else 0,
        "availability": "public",
        "live_status": "not_live",
        "categories": ["People & Blogs"],
        "tags": ["drawing", *(world.OBJECTS[g.kind] for g in draft.scene.groups)],
        "chapters": None,
        "heatmap": None,
        "language": "en",
        "thumbnail": f"https://i.ytimg.com/vi/{draft.id}/maxresdefault.jpg",
        "thumbnails": [{"id": "0", "url": f"https://i.ytimg.com/vi/{draft.id}/maxresdefault.jpg"}],
        "webpage_url": address,
        "original_url": address,
        "webpage_url_domain": "youtube.com",
        "extractor": "youtube",
        "extractor_key": "Youtube",
        "width": 96,
        "height": 96,
        "fps": 30,
        "ext": "mp4",
        "_type": "video",
    }


def draft(identity: str, title: str, scene: Scene, reaction: Reaction, rng: np.random.Generator) -> Draft:
    """Starts a post from what the audience did."""
    entries = [Entry(r.text, r.author, r.score, r.kind, r.reply_to, r.delay) for r in reaction.remarks]
    author = people()[int(rng.integers(len(people())))].name
    return Draft(
        id=identity,
        title=title,
        scene=scene,
        reaction=reaction,
        created=posting_time(rng),
        author=author,
        entries=entries,
        views=reaction.views,
        likes=reaction.likes,
        like_rate=round(reaction.likes / reaction.views, 4),
    )
