"""Writes the plaza to disk: the raw files as their sites would give them, and the truths of the simulation
apart.

    raw/reddit/RS_plaza.ndjson, RC_plaza.ndjson, media/     raw/youtube/<id>.info.json, <id>.jpg
    raw/instruct/instruct.json, captions.json, images/      raw/text/text.jsonl, chat.json
    raw/films/<id>.mp4, <id>.info.json, <id>.jpg            only where films are asked for
    gold.json                                               truths for the evaluation; never read by `prepare`

The same arguments give the same bytes: every post, picture, record and text has its own generator, seeded by
(seed, section, index), and times are simulated.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from input_pipeline.errors import UserError
from input_pipeline.plaza import audience, dirt, draw, feed, language, scene, world, write_films
from input_pipeline.plaza import instruct as records
from input_pipeline.plaza import texts as documents

Progress = Callable[[int, int], None]

_PLAN, _POST, _IMAGE, _RECORD, _CAPTION, _TEXT, _CHAT = range(7)  # sections of the corpus, for seeds
REDDIT_SHARE = 0.75
IMAGES_PER_RECORD = 0.8  # instruction pictures drawn for each instruction record; captions share them


@dataclass(frozen=True)
class _Line:
    """One line of an ndjson file before sorting by time, with what is wrong with it."""

    created: int
    text: str
    broken: bool = False
    missing: str | None = None  # the name of a field that was left out


@dataclass
class _Feed:
    """What the posts leave behind while they are written, one after the other."""

    root: Path
    pictures: dict[int, tuple[scene.Scene, bytes, str, str]] = field(
        default_factory=dict
    )  # clean Reddit posts
    submissions: list[_Line] = field(default_factory=list)
    comments: list[_Line] = field(default_factory=list)
    gold: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)  # comment id -> kind
    dirt: dict[str, list[Any]] = field(default_factory=dict)

    def note(self, name: str, what: Any) -> None:
        self.dirt.setdefault(name, []).append(what)


def write(
    out_dir: Path,
    seed: int,
    posts: int = 2400,
    instruct: int = 3000,
    texts: int = 6000,
    chats: int = 6000,
    progress: Progress | None = None,
    films: int = 0,
) -> dict[str, Any]:
    """Writes a corpus of `posts` posts, `instruct` instruction records (and as many captions), `texts` documents,
    `chats` text-only conversations (what made Vicuna of Llama) and `films` films (`write_films`). All else is the
    same to the byte with and without films; `gold.json` then has "films" too.

    `progress`, if given, is called as progress(done, total) now and then and at the end. Returns statistics
    (also in `gold.json["stats"]`): counts, and `noise_share`, the measured share of noise among the
    audience's own comments. Raises UserError where `out_dir` already holds raw files, a number is negative, or PyAV
    cannot write the films.
    """
    out_dir = Path(out_dir)
    raw = out_dir / "raw"
    if min(seed, posts, instruct, texts, chats, films) < 0:
        raise UserError(
            f"plaza: seed={seed} posts={posts} instruct={instruct} texts={texts} chats={chats} films={films}: none may "
            "be negative."
        )
    if raw.exists() and any(raw.iterdir()):
        raise UserError(f"{raw} already holds files; name another folder or remove it first.")
    if films:
        write_films.check_encoder()
    for folder in ("reddit/media", "youtube", "instruct/images", "text"):
        (raw / folder).mkdir(parents=True, exist_ok=True)
    images = round(IMAGES_PER_RECORD * instruct)
    # A text costs a small part of a picture, a film as much as many.
    total = posts + images + texts // 20 + write_films.COST * films
    tell = progress or (lambda done, total: None)

    state = _write_posts(raw, seed, posts, lambda done: tell(done, total))
    image_truths = _write_instruct(
        raw / "instruct", seed, instruct, images, lambda done: tell(posts + done, total)
    )
    _write_texts(raw / "text" / "text.jsonl", seed, texts)
    chat = [records.textual(f"h{i:06d}", np.random.default_rng([seed, _CHAT, i])) for i in range(chats)]
    _write_json_list(raw / "text" / "chat.json", chat)
    shown: dict[str, Any] = {}
    if films:
        before = total - write_films.COST * films
        found = write_films.write(
            raw / "films", seed, films, lambda done: tell(before + write_films.COST * done, total)
        )
        shown = {"films": found.gold}
        state.kinds |= found.kinds
        for name, listed in found.dirt.items():
            state.dirt.setdefault(name, []).extend(listed)
    tell(total, total)

    genuine = Counter(
        {kind: n for kind, n in Counter(state.kinds.values()).items() if kind not in dirt.COMMENT_KINDS}
    )
    stats = {
        "posts": posts,
        "reddit": len(state.submissions),
        "youtube": posts - len(state.submissions),
        "comments": len(state.kinds),
        "comment_kinds": dict(sorted(Counter(state.kinds.values()).items())),
        "noise_share": round(genuine["noise"] / max(1, genuine.total()), 4),
        "instruct": instruct,
        "captions": instruct if images else 0,
        "instruct_images": images,
        "texts": texts,
        "chats": chats,
        "dirt": {name: len(listed) for name, listed in sorted(state.dirt.items())},
        **({"films": films} if films else {}),
    }
    gold = {
        "seed": seed,
        "moods": list(world.MOODS),
        "topics": list(world.TOPICS),
        "objects": list(world.OBJECTS),
        "colours": list(world.COLOURS),
        "posts": state.gold,
        "comments": state.kinds,
        "dirt": {**state.dirt, "nsfw_words": list(dirt.NSFW_WORDS)},
        "instruct_images": image_truths,
        **shown,
        "stats": stats,
    }
    (out_dir / "gold.json").write_text(_dump(gold) + "\n", encoding="utf-8")
    return stats


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


# --- posts ----------------------------------------------------------------------------------------


def _write_posts(raw: Path, seed: int, posts: int, tell: Callable[[int], None]) -> _Feed:
    plan = np.random.default_rng([seed, _PLAN])
    is_reddit = plan.random(posts) < REDDIT_SHARE
    roles = dirt.assign(posts, is_reddit, plan)
    state = _Feed(raw)
    for index in range(posts):
        rng = np.random.default_rng([seed, _POST, index])
        _write_post(state, index, bool(is_reddit[index]), roles.get(index, "clean"), rng)
        if index % 50 == 0:
            tell(index)
    for name, lines in (("RS_plaza", state.submissions), ("RC_plaza", state.comments)):
        _write_lines(state, name, lines)
    return state


def _write_post(state: _Feed, index: int, reddit: bool, role: str, rng: np.random.Generator) -> None:
    identity = feed.reddit_id(index, rng) if reddit else feed.youtube_id(rng)
    shown, data, form, original = _picture(state, reddit, role, rng)
    if reddit and role == "clean":
        state.pictures[index] = (shown, data, form, identity)
    reaction = audience.react(shown, rng, few=role == "few_comments")
    post = feed.draft(identity, language.title(shown, rng), shown, reaction, rng)
    if role != "few_comments":
        dirt.plant_comments(post, reddit, rng)
    dirt.spoil(post, role, rng)

    stem = state.root / "youtube" / identity
    name = feed.base36(int(rng.integers(36**11, 36**12))) + "." + form
    media = state.root / "reddit" / "media" / name if reddit else stem.with_name(f"{identity}.jpg")
    if role != "missing_media":
        media.write_bytes(data)
    if reddit:
        missing = _write_submission(state, post, name, role, rng)
        origin, media_name = "reddit/RS_plaza.ndjson", f"reddit/media/{name}"
    else:
        missing = None
        text = _dump(feed.video(post, rng))
        text = text[: len(text) // 2] if role == "broken_files" else text
        origin, media_name = f"youtube/{identity}.info.json", f"youtube/{identity}.jpg"
        (state.root / origin).write_text(text + "\n", encoding="utf-8")

    if role in ("reposts", "near_duplicate_media"):
        state.note(role, {"id": identity, "of": original})
    elif role == "missing_fields":
        state.note(role, {"id": identity, "field": missing, "in": origin})
    elif role == "broken_files":
        state.note(role, {"id": identity, "in": f"{origin}:1"})
    elif role not in ("clean", "broken_lines"):  # a broken line is noted where its number is known
        state.note(role, identity)
    if role in ("broken_lines", "broken_files", "missing_fields"):
        return  # nothing can be read of it, so there is nothing to be right about
    for place, entry in enumerate(post.entries):
        own = feed.comment_id(post, place, reddit)
        state.kinds[own] = entry.kind
        if entry.kind in dirt.COMMENT_KINDS:
            state.note(entry.kind, own)
    state.gold[identity] = {
        **shown.truth(),
        "source": "reddit" if reddit else "youtube",
        "media": media_name,
        "role": role,
        "appeal": round(reaction.rate, 4),
        "like_rate": post.like_rate,
    }


def _picture(
    state: _Feed, reddit: bool, role: str, rng: np.random.Generator
) -> tuple[scene.Scene, bytes, Literal["png", "jpg"], str]:
    """The scene, file, format and (for a repeat) the id of the post whose picture it repeats."""
    drawn = scene.sample(rng)
    form: Literal["png", "jpg"] = "png" if reddit and rng.random() < 0.6 else "jpg"
    if role in ("reposts", "near_duplicate_media") and state.pictures:
        known = sorted(state.pictures)
        drawn, data, old_form, original = state.pictures[known[int(rng.integers(len(known)))]]
        if role == "reposts":
            return drawn, data, "png" if old_form == "png" else "jpg", original
        return drawn, draw.copy(draw.render(drawn), rng), "jpg", original
    data = draw.encode(draw.render(drawn), form)
    return drawn, dirt.truncate(data, rng) if role == "unreadable_media" else data, form, ""


def _write_submission(
    state: _Feed, post: feed.Draft, file_name: str, role: str, rng: np.random.Generator
) -> str | None:
    """Queues a submission and its comments; returns the name of the field left out, if any."""
    row = feed.submission(post, file_name, rng)
    post.like_rate = row["upvote_ratio"]
    missing = None
    if role == "deleted_posts":
        row |= {"selftext": "[deleted]", "removed_by_category": "deleted"}
    elif role == "missing_fields":
        missing = ("title", "url", "id")[int(rng.integers(3))]
        for name in (missing, {"url": "url_overridden_by_dest", "id": "name"}.get(missing, missing)):
            row.pop(name, None)  # its twin too, or a careful reader could still mend it
    text = _dump(row)
    text = text[: len(text) // 2] if role == "broken_lines" else text
    state.submissions.append(_Line(post.created, text, role == "broken_lines", missing))
    for comment in feed.reddit_comments(post, row["subreddit"]):
        state.comments.append(_Line(comment["created_utc"], _dump(comment)))
    if role in ("broken_lines", "missing_fields"):  # its last comment is hurt in the same way
        last = state.comments.pop()
        if role == "broken_lines":
            state.comments.append(_Line(last.created, last.text[: len(last.text) // 2], broken=True))
        else:
            comment = {key: value for key, value in json.loads(last.text).items() if key != "body"}
            state.comments.append(_Line(last.created, _dump(comment), missing="body"))
    return missing


def _write_lines(state: _Feed, name: str, lines: list[_Line]) -> None:
    """Writes an ndjson file in order of time, as the dumps are, and notes the numbers of hurt lines."""
    lines = sorted(lines, key=lambda line: (line.created, line.text))
    path = state.root / "reddit" / f"{name}.ndjson"
    with path.open("w", encoding="utf-8") as file:
        for number, line in enumerate(lines, 1):
            file.write(line.text + "\n")
            at = f"reddit/{name}.ndjson:{number}"
            if line.broken:
                state.note("broken_lines", {"in": at})
            if line.missing and name == "RC_plaza":
                state.note("missing_fields", {"field": line.missing, "in": at})


# --- instruction data and texts -------------------------------------------------------------------


def _write_instruct(
    folder: Path, seed: int, count: int, images: int, tell: Callable[[int], None]
) -> dict[str, dict[str, Any]]:
    """Writes pictures, instruct.json and captions.json; returns the truths of the pictures by file name."""
    scenes: list[scene.Scene] = []
    for index in range(images):
        drawn = scene.sample(np.random.default_rng([seed, _IMAGE, index]))
        (folder / "images" / _image_name(index)).write_bytes(draw.encode(draw.render(drawn), "png"))
        scenes.append(drawn)
        if index % 50 == 0:
            tell(index)
    text_only = round(records.TEXT_SHARE * count) if images else count
    conversations = []
    for index in range(count):
        rng = np.random.default_rng([seed, _RECORD, index])
        if index < count - text_only:
            which = index % images
            conversations.append(records.visual(f"v{index:06d}", _image_name(which), scenes[which], rng))
        else:
            conversations.append(records.textual(f"t{index:06d}", rng))
    captions = []
    for index in range(count if images else 0):
        rng = np.random.default_rng([seed, _CAPTION, index])
        which = index % images
        captions.append(records.captioned(f"c{index:06d}", _image_name(which), scenes[which], rng))
    _write_json_list(folder / "instruct.json", conversations)
    _write_json_list(folder / "captions.json", captions)
    return {_image_name(index): drawn.truth() for index, drawn in enumerate(scenes)}


def _write_json_list(path: Path, values: list[dict[str, Any]]) -> None:
    """A JSON list with one record a line."""
    body = ",\n".join(_dump(value) for value in values)
    path.write_text(f"[\n{body}\n]\n", encoding="utf-8")


def _image_name(index: int) -> str:
    return f"{index:06d}.png"


def _write_texts(path: Path, seed: int, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            text = documents.document(np.random.default_rng([seed, _TEXT, index]))
            file.write(_dump({"id": f"x{index:06d}", "text": text}) + "\n")
