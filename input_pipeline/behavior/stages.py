"""The stages of `prepare`, each a function of one task that reads files and leaves files.

    scatter     input files     -> rows by bucket of their post (reading)
    join        one bucket      -> posts with their comments, cheap rules, a look at the media
    repeats     all pictures    -> which posts show the same one (one task)
    clean       one bucket      -> clean posts: the rules on comments
    write       one bucket      -> shards of records

What a task leaves is there whole or not at all, its tally last; so a run that was stopped goes on where it was,
and nothing depends on which worker did what. A bucket holds a range of the order of all posts. Its size does
not grow with the input, and neither does the memory of a task.
"""

from __future__ import annotations

import functools
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from input_pipeline import inputs, records
from input_pipeline.behavior import (
    clean,
    dealing,
    duplicates,
    evaluation_set,
    films,
    funnel,
    samples,
    spill,
    told_scenes,
    verbalise,
)
from input_pipeline.behavior.duplicates import Fingerprint
from input_pipeline.behavior.evaluation_set import EvaluationSet
from input_pipeline.behavior.job import Job, is_done, read_value, write_value
from input_pipeline.behavior.spill import Gone, SpecRow
from input_pipeline.behavior.tally import Ledger
from input_pipeline.errors import UserError
from input_pipeline.images import ImageError, open_image, shrink
from input_pipeline.inputs import Input
from input_pipeline.sources import media
from input_pipeline.sources.lines import Passed
from input_pipeline.sources.llava_json import Sample
from input_pipeline.sources.rejected import Rejected
from input_pipeline.sources.text import Document
from input_pipeline.types import Comment, Post, Reply
from input_pipeline.video_file import VideoError

STAGES = ("scatter", "join", "repeats", "clean", "write")
_POSTS_AT_ONCE = 256  # whose comments are compared in one go


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """A joined post's place in its bucket's log, and its picture's fingerprint."""

    key: str
    created: float | None
    place: tuple[int, int]
    sha256: bytes
    hash: int
    thumbnail: bytes


class Repeats(msgspec.Struct, frozen=True, array_like=True):
    """What is to be merged in one bucket: posts that go, and for each that stays the places of its repeats."""

    gone: list[str]
    merged: dict[str, list[tuple[int, tuple[int, int]]]]  # key: (bucket, place)


def run(job: Job, stage: str, task: Any) -> None:
    """Runs a task that is not done yet. A mistake of the user or a full disk is told through the file `failure`.

    Beam would wrap an error in a page of its own. Where something failed, the rest of the run passes over quickly.
    """
    number = task[0] if isinstance(task, tuple) else task
    failure = job.failure()
    if failure.exists() or is_done(job, stage, number):
        return
    try:
        _FUNCTIONS[stage](job, task)
    except UserError as error:
        failure.write_text(str(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        failure.with_suffix(".traceback").write_text(traceback.format_exc())
        failure.write_text(f"{where}{error.strerror or error}; mend that and run the same command again")


# --- scatter --------------------------------------------------------------------------------------


def scatter(job: Job, task: tuple[int, tuple[Input, ...]]) -> None:
    """Reads files and writes each record to its bucket."""
    number, files = task
    base = job.base("scatter", number)
    bucket = functools.lru_cache(1 << 16)(lambda key: spill.bucket_of(job.order(key), job.buckets))
    key_of = funnel.key_of
    with Ledger(base) as ledger, spill.Writer(base.with_suffix(".rows"), job.buckets) as out:
        for item in files:
            count = 0
            for result in inputs.read(item):
                if isinstance(result, Reply):
                    out.add(bucket(key_of(result.source, result.post_id)), result)
                elif isinstance(result, Post):
                    out.add(bucket(key_of(result.source, result.id)), result)
                elif isinstance(result, Rejected):
                    ledger.reject(result, item.group)
                    if result.kind == "gone" and result.source and result.id:
                        out.add(bucket(key_of(result.source, result.id)), Gone.of(result))
                elif isinstance(result, Passed):
                    ledger.passed(result.reason, result.count)
                    continue
                else:
                    row = _spec_row(item, result)
                    # All samples of one picture meet, so that it is looked at once.
                    out.add(bucket(row.split_key), row)
                count += 1
            ledger.records(item.group or item.path, item.kind, count)


def _spec_row(item: Input, result: Sample | Document) -> SpecRow:
    key = f"{item.number}:{result.origin.rpartition(':')[2]}"
    if isinstance(result, Sample):
        return SpecRow(
            item.kind, result.split_key, result.origin, samples.conversation(result, item.kind, key)
        )
    return SpecRow(item.kind, result.id, result.origin, samples.document(result, key))


# --- join -----------------------------------------------------------------------------------------


def join(job: Job, bucket: int) -> None:
    """Brings together the posts of a bucket and their comments, and looks at the media of those that pass."""
    base = job.base("join", bucket)
    posts: defaultdict[str, list[Post]] = defaultdict(list)
    gone: defaultdict[str, list[Gone]] = defaultdict(list)
    replies: defaultdict[str, list[Comment]] = defaultdict(list)
    specs: list[SpecRow] = []
    for path in sorted((Path(job.work) / "scatter").glob("*.rows")):
        for row in spill.read(path, bucket):
            if isinstance(row, Reply):
                replies[funnel.key_of(row.source, row.post_id)].append(row.comment)
            elif isinstance(row, Post):
                posts[funnel.key_of(row.source, row.id)].append(row)
            elif isinstance(row, Gone):
                gone[funnel.key_of(row.source, row.id)].append(row)
            else:
                specs.append(row)

    evaluation = evaluation_set.load(job.evaluation(), job.rules)
    told = told_scenes.load(job.told_scenes())
    seen: list[Seen] = []
    with (
        Ledger(base) as ledger,
        spill.PostLog(base.with_suffix(".posts")) as log,
        spill.Writer(base.with_suffix(".specs"), 1) as out,
    ):
        keys = posts.keys() | gone.keys() | replies.keys()
        for key in sorted(keys, key=lambda key: (job.order(key), key)):
            mine, lost, said = posts.pop(key, []), gone.pop(key, []), replies.pop(key, [])
            own = sum(len(post.comments) for post in mine)
            ledger.read(key.partition("/")[0], len(mine) + len(lost), len(said) + own)
            post, drops = funnel.join(key, mine, lost, said)
            if post is not None:
                outcome = clean.run(post, clean.BEFORE_MEDIA, job.rules)
                drops += outcome.drops
                post = outcome.post
            for drop in drops:
                ledger.drop(drop)
            if post is not None and (looked := _look(job, post, evaluation, ledger)):
                post, print_ = looked
                if told:
                    before, post = post, told.tell(post, print_.sha256.hex())
                    ledger.tally.told_scenes += post is not before
                place = log.add(post)
                seen.append(Seen(key, post.created, place, print_.sha256, print_.hash, print_.thumbnail))
        readable, watchable = functools.cache(_why_unreadable), functools.cache(films.why_unreadable)
        for row in sorted(specs, key=lambda row: (job.order(row.split_key), row.spec["key"])):
            spec = row.spec
            looks = (("image", readable, spec["images"]), ("video", watchable, spec.get("videos", ())))
            reasons = ((kind, look(ref)) for kind, look, refs in looks for ref in refs)
            if found := next((one for one in reasons if one[1]), None):
                ledger.reject(Rejected(row.origin, spec["id"], *found))
            else:
                out.add(0, row)
        write_value(base.with_suffix(".seen"), seen)


def _look(
    job: Job, post: Post, evaluation: EvaluationSet | None, ledger: Ledger
) -> tuple[Post, Fingerprint] | None:
    """Opens the film of a post, or its first image; None where it cannot be used, which is booked."""
    if evaluation and evaluation.has_post(post):
        ledger.drop(clean.drop_post(post, "evaluation set", "id of an evaluation set"))
        return None
    kind = "video" if post.film else "image"
    try:
        data = media.read(post.film or post.media[0])
        if post.film:
            post, image = films.with_scenes(post, data, job.showing, ledger.tell)
        else:
            image = open_image(data)
    except (ImageError, VideoError, OSError) as error:
        reason = f"{kind} file cannot be read" if isinstance(error, OSError) else error.reason
        ledger.reject(Rejected(post.origin, post.id, kind, reason, source=post.source))
        ledger.drop(clean.drop_post(post, "unreadable image", reason))
        return None
    print_ = duplicates.fingerprint(data, image)
    if evaluation and evaluation.has_picture(print_):
        ledger.drop(clean.drop_post(post, "evaluation set", "picture of an evaluation set"))
        return None
    content = post.content or verbalise.content_statement(image)
    return replace(post, media=post.media[:1], content=content), print_


def _why_unreadable(reference: str) -> str:
    try:
        open_image(media.read(reference))
    except ImageError as error:
        return error.reason
    except OSError:
        return "image file cannot be read"
    return ""


# --- duplicates -----------------------------------------------------------------------------------


def find_repeats(job: Job, number: int) -> None:
    """Finds posts with the same picture over all buckets: one task, number 0. The earliest post stays."""
    seen = [
        (item, bucket)
        for bucket in range(job.buckets)
        for item in read_value(job.base("join", bucket).with_suffix(".seen"), list[Seen])
    ]
    seen.sort(
        key=lambda pair: (pair[0].created if pair[0].created is not None else float("inf"), pair[0].key)
    )
    owner: dict[int, int] = {}
    if job.rules.drop_duplicate_media:
        prints = [Fingerprint(item.sha256, item.hash, item.thumbnail) for item, _ in seen]
        owner = duplicates.find_duplicates(prints, job.rules)
    gone: defaultdict[int, list[str]] = defaultdict(list)
    merged: defaultdict[int, dict[str, list[tuple[int, tuple[int, int]]]]] = defaultdict(dict)
    for index, first in sorted(owner.items()):
        if index != first:
            (item, bucket), (stays, home) = seen[index], seen[first]
            gone[bucket].append(item.key)
            merged[home].setdefault(stays.key, []).append((bucket, item.place))
    for bucket in range(job.buckets):
        write_value(
            job.base("repeats", bucket).with_suffix(".repeats"), Repeats(gone[bucket], merged[bucket])
        )
    with Ledger(job.base("repeats", number)):
        pass  # nothing to book, but done


# --- clean ----------------------------------------------------------------------------------------


def clean_bucket(job: Job, bucket: int) -> None:
    """Merges repeated posts and runs the rules on comments."""
    base = job.base("clean", bucket)
    heads: dict[tuple[str, str], Post] = {}
    places: list[tuple[str, str, tuple[int, int]]] = []
    with Ledger(base) as ledger, spill.PostLog(base.with_suffix(".posts")) as log:
        waiting: list[Post] = []

        def finish() -> None:
            for outcome in clean.distinct_comments(waiting, job.rules):
                for drop in outcome.drops:
                    ledger.drop(drop)
                if outcome.post is None:
                    continue
                last = clean.run(outcome.post, clean.LAST, job.rules)
                for drop in last.drops:
                    ledger.drop(drop)
                if last.post is not None:
                    group = last.post.source, job.half(last.post.id)
                    places.append((*group, log.add(last.post)))
                    heads.setdefault(group, last.post)
            waiting.clear()

        for post in _merged(job, bucket, ledger):
            outcome = clean.run(post, clean.AFTER_MEDIA, job.rules)
            for drop in outcome.drops:
                ledger.drop(drop)
            if outcome.post is not None:
                waiting.append(outcome.post)
            if len(waiting) >= _POSTS_AT_ONCE:
                finish()
        finish()
        write_value(base.with_suffix(".places"), places)
        write_value(base.with_suffix(".heads"), [(*group, post) for group, post in heads.items()])


def _merged(job: Job, bucket: int, ledger: Ledger) -> Iterator[Post]:
    """Yields the posts of a bucket, with the comments of those that show the same picture."""
    base = job.base("join", bucket)
    repeats = read_value(job.base("repeats", bucket).with_suffix(".repeats"), Repeats)
    gone = frozenset(repeats.gone)
    items = [item for item in read_value(base.with_suffix(".seen"), list[Seen]) if item.key not in gone]
    posts = spill.read_posts(base.with_suffix(".posts"), [item.place for item in items])
    for item, post in zip(items, posts, strict=True):
        if item.key in repeats.merged:
            others = [
                spill.read_post(job.base("join", home).with_suffix(".posts"), place)
                for home, place in repeats.merged[item.key]
            ]
            post, lost = duplicates.merge([post, *others], job.rules.merge_comments)
            for index, other in enumerate(others):
                # Comments that moved to the first post are not lost; only those that did not are counted.
                drop = clean.drop_post(other, "duplicate media", "picture seen before", 0 if index else lost)
                ledger.drop(drop)
        yield post


# --- write ----------------------------------------------------------------------------------------


def write(job: Job, bucket: int) -> None:
    """Makes the records of a bucket, in the order of their keys, as one shard of each split."""
    base = job.base("write", bucket)

    @functools.lru_cache(8)  # the arms of a post share its picture
    def load_media(reference: str) -> bytes:
        data = media.read(reference)
        return shrink(data, job.max_image_side) if job.max_image_side else data

    @functools.lru_cache(2)  # and its film
    def load_film(reference: str, times: tuple[float, ...] | None) -> films.Frames:
        return films.load(reference, times, job.showing)

    with Ledger(base) as ledger, records.ShardWriter(base.parent, base.name) as out:

        def add(split: str, spec: samples.Spec, origin: str) -> None:
            film = lambda reference, times: load_film(reference, tuple(times) if times else None)
            try:
                out.add(split, samples.load(spec, load_media, film))
            except VideoError as error:  # one whose beginning could be read
                ledger.reject(Rejected(origin, spec["id"], "video", error.reason))

        for row in spill.read(job.base("join", bucket).with_suffix(".specs"), 0):
            assert isinstance(row, SpecRow)
            add(f"{row.name}_{job.half(row.split_key)}", row.spec, row.origin)
        for post, donor in dealing.with_donors(job, bucket):
            half = job.half(post.id)
            for arm in job.arms:
                spec = arm.spec(post, donor)
                if spec is not None:
                    spec["meta"]["funnel"] = job.version
                    if post.film:
                        spec["times"] = films.times_of(post, job.showing, spec.get("apart"))
                        if spec.get("apart") and not spec["times"]:
                            ledger.reject(Rejected(post.origin, post.id, "video", films.NOT_EACH))
                            continue
                    add(f"{arm.name}_{half}", spec, post.origin)
        ledger.tally.splits = dict(out.sizes)


_FUNCTIONS: dict[str, Callable[[Job, Any], None]] = {
    "scatter": scatter,
    "join": join,
    "repeats": find_repeats,
    "clean": clean_bucket,
    "write": write,
}
