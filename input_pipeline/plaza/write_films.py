"""Writes plaza's films as yt-dlp leaves videos: <id>.mp4, <id>.info.json with comments and heatmap, <id>.jpg.

Every film has its own generator, seeded by (seed, section, index); none of them is shared with the posts'.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from input_pipeline.plaza import audience, dirt, draw, feed, films, language, replays, world

COST = 15  # of writing a film, in pictures of posts
_PLAN, _FILM = 7, 8  # sections of the corpus, for seeds: those before are in write.py
_BROKEN = "broken_film_infos"

check_encoder = films.check_encoder


@dataclass
class Written:
    """What is true of the films, for gold.json.

    Fields:
        gold: by id of a film: "scenes" with what `Scene.truth` has, "start", "end", "rest" (when it moves least, all
            in seconds), "replay" (how often it is watched again, 1 for the most watched one) and "remarks" (how many
            comments speak of it); "media", "thumbnail", "duration", "role", "appeal" and "like_rate" (None where it
            is hidden).
        kinds: by id of a comment, its kind.
        dirt: by role or kind of a comment, the ids.
    """

    gold: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    dirt: dict[str, list[Any]] = field(default_factory=dict)

    def note(self, name: str, what: Any) -> None:
        self.dirt.setdefault(name, []).append(what)


def write(folder: Path, seed: int, count: int, tell: Callable[[int], None] = lambda done: None) -> Written:
    """Writes `count` films into a new folder, about 70 ms and 30 KB each; `tell` is called with how many are done.

    Raises UserError where PyAV has no encoder.
    """
    films.check_encoder()
    folder.mkdir(parents=True)
    roles = dirt.assign_films(count, np.random.default_rng([seed, _PLAN]))
    written = Written()
    for index in range(count):
        role = roles.get(index, "clean")
        _write_film(folder, written, role, np.random.default_rng([seed, _FILM, index]))
        if index % 10 == 0:
            tell(index)
    return written


def _write_film(folder: Path, written: Written, role: str, rng: np.random.Generator) -> None:
    identity = feed.youtube_id(rng)
    film = films.sample(rng)
    levels = replays.levels(film.scenes, rng)
    heatmap = replays.heatmap(film.spans, levels, rng)
    reaction = audience.react_to_all(film.scenes, levels, rng, few=role == "films_with_few_comments")
    # Which scene the title and the thumbnail show says nothing of how it was received.
    titled, pictured = (film.scenes[int(i)] for i in rng.integers(len(film.scenes), size=2))
    post = feed.draft(identity, language.title(titled, rng), titled, reaction, rng)
    if role == "films_without_comments":
        post.entries = []
    elif role != "films_with_few_comments":
        dirt.plant_comments(post, False, rng)
    dirt.spoil(post, role, rng)

    _write_media(folder / f"{identity}.mp4", film, role, rng)
    (folder / f"{identity}.jpg").write_bytes(draw.encode(draw.render(pictured), "jpg"))
    text = json.dumps(_info(film, post, heatmap, role, rng), sort_keys=True, ensure_ascii=False)
    text = text[: len(text) // 2] if role == _BROKEN else text
    (folder / f"{identity}.info.json").write_text(text + "\n", encoding="utf-8")

    if role != "clean":
        written.note(
            role, {"id": identity, "in": f"films/{identity}.info.json:1"} if role == _BROKEN else identity
        )
    if role == _BROKEN:
        return  # nothing can be read of it, so there is nothing to be right about
    for place, entry in enumerate(post.entries):
        own = feed.comment_id(post, place, reddit=False)
        written.kinds[own] = entry.kind
        if entry.kind in dirt.COMMENT_KINDS:
            written.note(entry.kind, own)
    # What was planted stands behind the audience's own remarks; what was spoilt no longer speaks of a scene.
    said = [
        remark.about
        for remark, entry in zip(reaction.remarks, post.entries, strict=False)
        if entry.kind == remark.kind != "noise"
    ]
    scenes = zip(film.scenes, film.spans, film.rests, levels, strict=True)
    written.gold[identity] = {
        "scenes": [
            {
                **shown.truth(),
                "start": start,
                "end": end,
                "rest": round(rest, 3),
                "replay": round(level, 4),
                "remarks": said.count(number),
            }
            for number, (shown, (start, end), rest, level) in enumerate(scenes)
        ],
        "media": f"films/{identity}.mp4",
        "thumbnail": f"films/{identity}.jpg",
        "duration": film.duration,
        "role": role,
        "appeal": round(reaction.rate, 4),
        "like_rate": None if role == "films_with_hidden_likes" else post.like_rate,
    }


def _write_media(path: Path, film: films.Film, role: str, rng: np.random.Generator) -> None:
    if role == "missing_films":
        return
    films.write(film, path)
    if role in ("unreadable_films", "cut_films"):
        path.write_bytes(dirt.cut_film(path.read_bytes(), role, rng))


def _info(
    film: films.Film,
    post: feed.Draft,
    heatmap: list[dict[str, float]],
    role: str,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A yt-dlp info file of the film, with comments."""
    seconds = round(film.duration)  # the site knows whole ones only
    kinds = dict.fromkeys(world.OBJECTS[group.kind] for shown in film.scenes for group in shown.groups)
    info = feed.video(post, rng) | {
        "description": "Small drawings, one after the other.",
        "duration": seconds,
        "duration_string": f"{seconds // 60}:{seconds % 60:02d}" if seconds >= 60 else str(seconds),
        "heatmap": None if role == "films_without_heatmap" else heatmap,
        "tags": ["drawing", *sorted(kinds)],
        "width": films.SIDE,
        "height": films.SIDE,
        "resolution": f"{films.SIDE}x{films.SIDE}",
        "aspect_ratio": 1.0,
        "fps": films.FPS,
        "vcodec": "avc1.64000A",
        "acodec": "none",
    }
    if role == "films_without_comments":
        info |= {"comment_count": None, "comments": None}
    if role == "films_with_hidden_likes":
        info["like_count"] = None
    return info
