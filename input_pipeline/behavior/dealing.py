"""The `shuffled` control: every post keeps its picture and title and is dealt another post's behaviour."""

from __future__ import annotations

from collections.abc import Iterator

from input_pipeline.behavior import spill
from input_pipeline.behavior.job import Job, read_value
from input_pipeline.types import Post


def with_donors(job: Job, bucket: int) -> Iterator[tuple[Post, Post | None]]:
    """Yields (post, the post whose behaviour it is dealt in the shuffled control).

    That is the next post of the same source and half in the order of all posts, and the first of all for the
    last: a derangement, and so every behaviour occurs exactly as often as in the true data. A post that is
    alone has None.
    """
    base = job.base("clean", bucket)
    places = read_value(base.with_suffix(".places"), list[tuple[str, str, tuple[int, int]]])
    following: dict[int, int] = {}
    last: dict[tuple[str, str], int] = {}
    for index, (source, half, _) in enumerate(places):
        if (source, half) in last:
            following[last[source, half]] = index
        last[source, half] = index
    ahead: dict[int, Post] = {}  # read as a donor and not yet come to: one of each group at most
    path = base.with_suffix(".posts")
    for index, (source, half, place) in enumerate(places):
        post = ahead.pop(index, None) or spill.read_post(path, place)
        if index in following:
            donor = ahead[following[index]] = spill.read_post(path, places[following[index]][2])
        else:
            donor = _next_head(job, bucket, (source, half))
        yield post, None if donor is None or donor.id == post.id else donor


def _next_head(job: Job, bucket: int, group: tuple[str, str]) -> Post | None:
    for step in range(1, job.buckets + 1):
        path = job.base("clean", (bucket + step) % job.buckets).with_suffix(".heads")
        for source, half, post in read_value(path, list[tuple[str, str, Post]]):
            if (source, half) == group:
                return post
    return None
