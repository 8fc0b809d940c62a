"""Plaza's films: real video files, what their audience watches again, and how yt-dlp would have left them."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.stats import spearmanr

from input_pipeline.behavior.statements import replay_of
from input_pipeline.errors import UserError
from input_pipeline.plaza import audience, dirt, films, replays, scene, world, write_films
from input_pipeline.plaza.write import write
from input_pipeline.sources import media, youtube
from input_pipeline.sources.rejected import Rejected
from input_pipeline.types import Post, Scene, Span
from input_pipeline.video import ENDS_EARLY, VideoError, read_frames

COUNT = 18
ROLES = dict(enumerate(dirt.FILM_ROLES))  # one film of each role, and clean ones


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dirt, "assign_films", lambda count, rng: ROLES)
        write(root, seed=3, posts=6, instruct=4, texts=4, chats=4, films=COUNT)
    return root


@pytest.fixture(scope="module")
def gold(corpus: Path) -> dict[str, Any]:
    return json.loads((corpus / "gold.json").read_text("utf-8"))


def _infos(corpus: Path) -> dict[str, dict[str, Any]]:
    """Those that parse, by id."""
    found = {}
    for path in (corpus / "raw/films").glob("*.info.json"):
        try:
            info = json.loads(path.read_text("utf-8"))
        except ValueError:
            continue
        found[info["id"]] = info
    return found


def _of(gold: dict[str, Any], role: str) -> str:
    """The id of the film of a role."""
    (identity,) = gold["dirt"][role]
    return identity["id"] if isinstance(identity, dict) else identity


def _digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _decoded(path: Path) -> np.ndarray:
    """float64 [frames, H, W, 3]"""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(float)


# --- the corpus --------------------------------------------------------------------------------------------


def test_without_films_all_else_is_the_same_to_the_byte(corpus: Path, tmp_path: Path) -> None:
    write(tmp_path, seed=3, posts=6, instruct=4, texts=4, chats=4)
    plain, filmed = _digest(tmp_path), _digest(corpus)
    for name in ("gold.json", *(name for name in filmed if name.startswith("raw/films/"))):
        filmed.pop(name)
    assert plain.pop("gold.json")
    assert plain == filmed
    before = json.loads((tmp_path / "gold.json").read_text("utf-8"))
    after = json.loads((corpus / "gold.json").read_text("utf-8"))
    assert "films" not in before and "films" not in before["stats"] and not (tmp_path / "raw/films").exists()
    assert after["posts"] == before["posts"] and after["comments"].items() > before["comments"].items()
    assert after["stats"]["films"] == COUNT


def test_same_seed_same_films(tmp_path: Path) -> None:
    truths = [write_films.write(tmp_path / name, seed, 4) for name, seed in (("a", 5), ("b", 5), ("c", 6))]
    first, second, other = (_digest(tmp_path / name) for name in "abc")
    assert first == second and truths[0] == truths[1]
    assert first.keys().isdisjoint(other)


def test_a_longer_corpus_begins_with_the_shorter_one(tmp_path: Path) -> None:
    short, long = (write_films.write(tmp_path / str(count), 5, count) for count in (2, 3))
    assert long.gold.items() > short.gold.items()


def test_refuses_negative_numbers_and_encoders_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="films=-1"):
        write(tmp_path, seed=0, films=-1)
    monkeypatch.setattr(films, "_ENCODER", "libx999")
    with pytest.raises(UserError, match="no libx999"):
        write(tmp_path, seed=0, posts=1, films=1)
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_progress_counts_the_films(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write(tmp_path, 0, 2, 2, 20, 2, lambda done, total: calls.append((done, total)), films=2)
    done = [done for done, _ in calls]
    assert done == sorted(done) and {total for _, total in calls} == {done[-1]}
    assert done[-1] > 2 * write_films.COST


# --- the pictures ------------------------------------------------------------------------------------------


def test_films_are_small_h264_files_with_hard_cuts_and_little_motion(
    corpus: Path, gold: dict[str, Any]
) -> None:
    for truth in gold["films"].values():
        path = corpus / "raw" / truth["media"]
        if truth["role"] in ("missing_films", "unreadable_films", "cut_films"):
            continue
        assert path.stat().st_size < 60_000
        with av.open(str(path)) as container:
            (stream,) = container.streams
            assert stream.codec_context.name == "h264" and stream.average_rate == films.FPS
        seen = _decoded(path)
        assert seen.shape == (round(truth["duration"] * films.FPS), films.SIDE, films.SIDE, 3)
        assert 3 <= len(truth["scenes"]) <= 6
        ends = [(one["start"], one["end"]) for one in truth["scenes"]]
        assert [end for _, end in ends[:-1]] == [start for start, _ in ends[1:]]
        assert ends[0][0] == 0 and ends[-1][1] == truth["duration"]
        assert all(2 <= end - start <= 4 for start, end in ends)

        change = np.abs(np.diff(seen, axis=0)).mean((1, 2, 3))  # [frames - 1]
        cuts = [round(films.FPS * start) - 1 for start, _ in ends[1:]]
        within = np.delete(change, cuts)
        assert change[cuts].min() > 1.5 * within.max()
        assert within.mean() > 0.5


def test_a_scene_moves_least_where_it_is_said(tmp_path: Path) -> None:
    film = films.sample(np.random.default_rng(8))
    seen = np.stack([np.asarray(frame, float) for frame in films.frames(film)])
    for (start, end), rest in zip(film.spans, film.rests, strict=True):
        first, last = round(films.FPS * start), round(films.FPS * end)
        change = np.abs(np.diff(seen[first:last], axis=0)).mean((1, 2, 3))
        at = np.arange(first + 1, last) / films.FPS
        near = np.abs(at - rest) < 0.35
        assert change[near].mean() < 0.4 * change[~near].mean()


def test_neighbours_differ_in_mood_and_all_moods_are_as_frequent() -> None:
    drawn = [films.sample(np.random.default_rng(i)).scenes for i in range(300)]
    assert all(a.mood != b.mood for scenes in drawn for a, b in itertools.pairwise(scenes))
    moods = [one.mood for scenes in drawn for one in scenes]
    assert all(abs(moods.count(mood) / len(moods) - 1 / 6) < 0.035 for mood in world.MOODS)


# --- the audience ------------------------------------------------------------------------------------------


def _graph(rows: list[dict[str, float]]) -> list[Span]:
    return [Span(row["start_time"], row["end_time"], row["value"]) for row in rows]


def test_what_stays_in_the_mind_is_watched_again() -> None:
    scenes = [films.sample(np.random.default_rng(i)).scenes for i in range(200)]
    rng = np.random.default_rng(1)
    by_level = {
        name: np.mean(
            [spearmanr([cause(one) for one in film], replays.levels(film, rng))[0] for film in scenes]
        )
        for name, cause in (
            ("pull", replays.pull),
            ("memorability", scene.memorability),
            ("appeal", scene.appeal),
        )
    }
    assert 0.8 < by_level["pull"] < 0.98  # noise keeps it from 1
    assert by_level["memorability"] > 0.7 and by_level["appeal"] > 0.7
    for film in scenes[:20]:
        still = replays.levels(film, rng, noise=0)
        assert max(still) == 1 and np.argmax(still) == np.argmax([replays.pull(one) for one in film])


def test_a_heatmap_is_youtube_s_and_its_peaks_are_the_levels(corpus: Path, gold: dict[str, Any]) -> None:
    off, best = [], []
    for identity, info in _infos(corpus).items():
        rows = info["heatmap"]
        if rows is None:
            continue
        truth = gold["films"][identity]
        assert len(rows) == 100 and set(rows[0]) == {"start_time", "end_time", "value"}
        assert rows[0]["start_time"] == 0 and rows[-1]["end_time"] == truth["duration"]
        assert all(a["end_time"] == b["start_time"] for a, b in itertools.pairwise(rows))
        values = np.asarray([row["value"] for row in rows])
        assert values.max() == 1 and values.min() >= 0
        assert np.abs(np.diff(values)).max() < 0.35  # smooth, also over cuts
        told = [replay_of(Scene(start=one["start"], end=one["end"]), _graph(rows)) for one in truth["scenes"]]
        true = [one["replay"] for one in truth["scenes"]]
        assert max(true) == 1
        off += [abs(a - b) for a, b in zip(told, true, strict=True) if a is not None]
        best.append(np.argmax(told) == np.argmax(true))
    assert len(best) >= COUNT - 3
    assert np.mean(off) < 0.03 and max(off) < 0.25 and np.mean(best) > 0.85


def test_likes_and_comments_follow_the_scenes() -> None:
    rates, wanted, said, attention = [], [], np.zeros(2), 0.0
    for i in range(150):
        rng = np.random.default_rng([7, i])
        scenes = films.sample(rng).scenes
        levels = replays.levels(scenes, rng)
        reaction = audience.react_to_all(scenes, levels, rng)
        rates.append(reaction.likes / reaction.views)
        wanted.append(np.mean([audience.like_chances(one).mean() for one in scenes]))
        top = int(np.argmax(levels))
        for remark in reaction.remarks:
            said += (remark.about == top, remark.about != top)
            attention += 1 / np.sum(levels)  # the top scene's chance, as its level is 1
            mood, topic = scenes[remark.about].mood, scenes[remark.about].topic
            told = set(world.words(remark.text))
            if remark.kind == "mood":
                others = {word for name in world.MOODS if name != mood for word in world.MOODS[name]}
                assert not told & others
            elif remark.kind == "topic":
                assert not told & ({name for name in world.TOPICS if name != topic} - {"food"})
    assert np.corrcoef(rates, wanted)[0, 1] > 0.8
    assert said[0] / said.sum() == pytest.approx(attention / said.sum(), abs=0.04)


def test_one_scene_is_received_as_a_picture_is() -> None:
    one = scene.sample(np.random.default_rng(0))
    alone = audience.react(one, np.random.default_rng(5))
    assert audience.react_to_all([one], [0.3], np.random.default_rng(5)) == alone
    assert all(remark.about == 0 for remark in alone.remarks)
    # As before there were films: the quickstart's figures rest on these draws.
    assert (alone.views, alone.likes) == (50168, 27637)
    assert [remark.score for remark in alone.remarks] == [0, 79, 4]
    assert alone.remarks[-1].text == "I was today years old when i saw a toothbrush"


# --- what yt-dlp leaves ------------------------------------------------------------------------------------


def test_nothing_but_the_comments_gives_mood_or_topic_away(corpus: Path) -> None:
    for info in _infos(corpus).values():
        texts = [info["title"], info["description"], info["channel"], *info["tags"], *info["categories"]]
        assert not {word for text in texts for word in world.words(text)} & world.FORBIDDEN
        assert info["chapters"] is None


def test_the_reader_of_youtube_reads_films(corpus: Path, gold: dict[str, Any], tmp_path: Path) -> None:
    folder = corpus / "raw/films"
    library = media.build([folder], tmp_path / "media.sqlite")
    found: dict[str, Post] = {}
    rejected: list[Rejected] = []
    for path in youtube.list_files(folder):
        for item in youtube.read_video(path, library):
            if isinstance(item, Post):
                found[item.id] = item
            else:
                rejected.append(item)
    assert [one.reason for one in rejected] == ["file is not JSON"]
    assert rejected[0].id == _of(gold, "broken_film_infos")
    assert found.keys() == gold["films"].keys() and len(found) == COUNT - 1
    told = {comment.id for post in found.values() for comment in post.comments}
    assert told == gold["comments"].keys() & told and len(told) > 3 * COUNT
    for identity, post in found.items():
        truth = gold["films"][identity]
        assert post.duration == round(truth["duration"])
        assert post.media == (str(corpus / "raw" / truth["thumbnail"]),)
        assert post.views is not None
        if truth["role"] == "films_with_hidden_likes":
            assert post.likes is None and post.like_rate is None and truth["like_rate"] is None
        else:
            assert post.like_rate == pytest.approx(truth["like_rate"], abs=1e-4)
            assert post.like_rate == pytest.approx(truth["appeal"], abs=0.06)
        assert len(post.replay) == (0 if truth["role"] == "films_without_heatmap" else 100)


def test_dirt_is_where_gold_says(corpus: Path, gold: dict[str, Any]) -> None:
    planted, infos = gold["dirt"], _infos(corpus)
    assert planted.keys() >= dirt.FILM_ROLES.keys()
    assert infos[_of(gold, "films_without_heatmap")]["heatmap"] is None
    assert infos[_of(gold, "films_without_comments")]["comments"] is None
    assert len(infos[_of(gold, "films_with_few_comments")]["comments"]) < 2
    assert infos[_of(gold, "films_with_few_views")]["view_count"] < 8000
    assert infos[_of(gold, "nsfw_films")]["age_limit"] == 18
    assert sum(info["age_limit"] > 0 for info in infos.values()) == 1
    path = lambda role: corpus / "raw" / gold["films"][_of(gold, role)]["media"]
    assert not path("missing_films").exists()
    with pytest.raises(VideoError):
        read_frames(path("unreadable_films"), 4)
    said: list[str] = []
    assert len(read_frames(path("cut_films"), 4, tell=said.append)) == 4 and said == [ENDS_EARLY]
    # The truth of a film that breaks off is that of the whole one.
    whole = round(films.FPS * gold["films"][_of(gold, "cut_films")]["duration"])
    with av.open(str(path("cut_films"))) as container, pytest.raises(av.error.FFmpegError):
        assert sum(1 for _ in container.decode(video=0)) < 0.8 * whole
    assert {one["role"] for one in gold["films"].values()} == {"clean", *dirt.FILM_ROLES} - {
        "broken_film_infos"
    }


def test_every_role_is_assigned_once_in_a_hundred_films() -> None:
    roles = dirt.assign_films(100, np.random.default_rng(0))
    counts = {role: list(roles.values()).count(role) for role in dirt.FILM_ROLES}
    assert counts == {role: max(1, round(100 * share)) for role, share in dirt.FILM_ROLES.items()}
    assert set(roles) <= set(range(100))
    assert roles != dirt.assign_films(100, np.random.default_rng(1))
    for few in range(6):
        assert len(dirt.assign_films(few, np.random.default_rng(0))) <= few
    many = dirt.assign_films(1000, np.random.default_rng(0))
    assert list(many.values()).count("films_without_heatmap") == 50


def test_remarks_are_counted_by_scene(gold: dict[str, Any]) -> None:
    for identity, truth in gold["films"].items():
        spoken = [
            kind
            for key, kind in gold["comments"].items()
            if key.startswith(f"Ugz{identity}") and kind not in ("noise", *dirt.COMMENT_KINDS)
        ]
        assert sum(one["remarks"] for one in truth["scenes"]) == len(spoken)
