"""Which pictures the posts of a `prepare` config need: the links of those that its cheap rules would keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from input_pipeline import inputs, recipe
from input_pipeline.behavior import clean
from input_pipeline.download.run import Settings, Summary, Wanted, download, unwanted_reason, wanted_of
from input_pipeline.errors import UserError
from input_pipeline.sources import media
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post

_KINDS = ("reddit_posts", "reddit_api", "youtube", "youtube_api", "blift", "corpus", "table_posts")


class _Everything(media.Library):
    """A library that has whatever is asked for, so that readers yield every post."""

    def __init__(self) -> None:
        super().__init__("")

    def find(self, name: str, folder: str | Path | None = None) -> str | None:
        return name or None

    def info(self, video: str) -> str | None:
        return None


def download_media(
    config: ConfigDict | Mapping[str, Any],
    folder: str | Path,
    settings: Settings,
    progress: Callable[..., object] | None = None,
) -> tuple[Summary, Counter[str]]:
    """Fetches the pictures of a config's posts into a folder, for `prepare` to find them there.

    Posts that are too old, marked, of other communities and so on are not asked for: their pictures would be
    dropped. Which comments a post has is not looked at.

    Args:
        config: of configs/prepare.py.
        folder: made if it is missing; usually the `media` of the config's entries.
        settings: of the download; its contact must be set.
        progress: called as progress(done, total so far, note).

    Returns:
        The summary of the download, and how many posts were not asked for, by reason.
    """
    plain = recipe.plain(config)
    rules, _ = recipe.check(plain)
    Path(folder).mkdir(parents=True, exist_ok=True)
    found = [item for item in inputs.list_all(plain) if item.kind in _KINDS]
    if not found:
        raise UserError("download: the config names no posts; media of instruction data comes with that data")
    passed: Counter[str] = Counter()

    def wanted() -> Iterator[Wanted]:
        for item in found:
            for result in inputs.read(item, _Everything()):
                if isinstance(result, Rejected) and result.kind == "bad":
                    passed[f"cannot be read: {result.reason}"] += 1
                if not isinstance(result, Post):
                    continue
                outcome = clean.run(result, clean.BEFORE_MEDIA, rules)
                if outcome.post is None:
                    passed[f"dropped by the rules: {outcome.drops[0].reason}"] += 1
                elif (link := wanted_of(result.url)) is None:
                    passed[unwanted_reason(result.url)] += 1
                else:
                    yield link

    return download(wanted(), folder, settings, progress), passed
