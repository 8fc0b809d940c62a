"""Every threshold of the cleaning funnel, with the paper's values (arXiv 2405.00942) as defaults."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline.errors import UserError, nearest
from input_pipeline.types import Post

SOURCES = ("reddit", "youtube", "other")


@dataclass(frozen=True)
class SourceRules:
    """Thresholds of one source. Where the paper names none, the default does nothing or says why."""

    created_from: str = ""  # a day such as "2018-01-01", UTC; posts of unknown time pass
    created_until: str = ""  # the first day that is too late
    communities: tuple[str, ...] = ()  # subreddits or channels to keep, in any case; () keeps all
    exclude_communities: tuple[str, ...] = ()
    exclude_categories: tuple[str, ...] = ()
    min_views: int = 0  # posts without a view count pass
    max_duration: float | None = None  # seconds
    min_words: int = 3
    max_words: int = 100  # the paper has it for YouTube only; longer comments crowd a training sequence
    similarity: float = 0.6  # comments at least this alike (cosine of TF-IDF) are one comment
    languages: tuple[str, ...] = ()  # ISO 639-1 codes to keep; () keeps all
    min_comments: int = 2


@dataclass(frozen=True)
class Rules:
    """All thresholds of the funnel."""

    reddit: SourceRules = SourceRules(created_from="2018-01-01", max_duration=500.0)
    youtube: SourceRules = SourceRules(
        min_views=10_001,
        # Excluded by hand in the paper: music, gaming, sports commentary, anime and memes, news, non-English.
        exclude_categories=("Music", "Gaming", "Sports", "Anime/Animation", "News & Politics"),
        min_words=4,
        similarity=0.7,
        languages=("en",),
        min_comments=0,
    )
    other: SourceRules = SourceRules()
    drop_nsfw: bool = True
    drop_bots: bool = True
    drop_deleted: bool = True
    drop_duplicate_media: bool = True
    merge_comments: bool = True  # of repeated media, into the first post
    hash_distance: int = 6  # bits of 64 in which the perceptual hashes of one picture may differ
    thumbnail_distance: float = 4.0  # mean difference (of 255) of their 8x8 thumbnails
    use_word_list: bool = True
    nsfw_words: str = ""  # path of a word list; '' is our own short one
    language_score: float = 0.5  # how sure the identifier has to be before a text goes
    evaluation_ids: tuple[str, ...] = ()  # files with an id a line, of posts that a benchmark tests on
    evaluation_images: tuple[str, ...] = ()  # folders and tar files of a benchmark's images

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Rules:
        """Builds the rules from a ConfigDict or dict; an unknown name or a wrong type is a UserError."""
        values = dict(config)
        for name in SOURCES:
            if name in values:
                if not isinstance(values[name], Mapping | ConfigDict):
                    raise UserError(f"clean.{name}: must hold the source's settings, not {values[name]!r}")
                given = _checked(dict(values[name]), SourceRules, f"clean.{name}")
                values[name] = replace(getattr(cls(), name), **given)
        rules = cls(**_checked(values, cls, "clean"))
        for name in SOURCES:
            limits = getattr(rules, name)
            if not 0 < limits.similarity <= 1:
                raise UserError(
                    f"clean.{name}.similarity: must be above 0 and at most 1, not {limits.similarity}"
                )
            for day in (limits.created_from, limits.created_until):
                seconds(day)  # for its error
        if not 0 <= rules.hash_distance <= 64 or rules.thumbnail_distance < 0:
            raise UserError("clean: hash_distance must be from 0 to 64 bits, thumbnail_distance not negative")
        for path in (*rules.evaluation_ids, *rules.evaluation_images):
            if not Path(path).exists():
                raise UserError(f"{path}: no such file or folder (of evaluation sets, in the config's clean)")
        return rules

    def of(self, post: Post) -> SourceRules:
        """Returns the thresholds of the post's source."""
        return getattr(self, post.source) if post.source in SOURCES else self.other


def _checked(values: dict[str, Any], cls: type, where: str) -> dict[str, Any]:
    """Returns the values with lists as tuples; the defaults say which type each has."""
    defaults = {field.name: getattr(cls(), field.name) for field in fields(cls)}
    for name, value in values.items():
        if name not in defaults:
            raise UserError(f"{where}.{name}: no such setting.{nearest(name, defaults)}")
        default = defaults[name]
        if isinstance(default, tuple):
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise UserError(f"{where}.{name}: must be a list of words, not {value!r}")
            values[name] = tuple(value)
        elif isinstance(default, bool | str | SourceRules):
            if not isinstance(value, type(default)):
                raise UserError(f"{where}.{name}: must be a {type(default).__name__}, not {value!r}")
        elif value is None and name == "max_duration":
            continue
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where}.{name}: must be a number, not {value!r}")
    return values


@functools.cache
def seconds(day: str) -> float | None:
    """Seconds since the epoch at the start of a day in UTC; None for ''."""
    if not day:
        return None
    try:
        return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UserError(f"{day!r} is not a day such as '2018-01-01' (created_from, created_until)") from None
