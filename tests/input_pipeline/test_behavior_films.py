"""Posts whose films are shown: frames or scenes in records, replay values, and films that cannot be read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.prepare import get_config
from input_pipeline import records
from input_pipeline.behavior import films as films_lib
from input_pipeline.errors import UserError
from input_pipeline.prepare import prepare
from input_pipeline.sources import media
from input_pipeline.types import Post, Scene
from tests.input_pipeline import films

RED, GREEN, BLUE = (240, 150, 140), (20, 70, 20), (150, 170, 255)


def cut(*colors: tuple[int, int, int], frames: int = 8) -> list[np.ndarray]:
    """Scenes of so many noisy frames of a colour each."""
    random = np.random.default_rng(0)
    return [
        np.clip(np.asarray(color) + random.integers(-9, 10, (64, 64, 3)), 0, 255).astype(np.uint8)
        for color in colors
        for _ in range(frames)
    ]


def info(folder: Path, name: str, **more: Any) -> None:
    comments = [
        {"id": f"{name}{n}", "text": f"{name} has {n} words and some {n * 7}", "like_count": n}
        for n in range(3)
    ]
    values = [0.1] * 50 + [1.0] * 10 + [0.3] * 40
    heat = [{"start_time": i * 0.06, "end_time": (i + 1) * 0.06, "value": v} for i, v in enumerate(values)]
    said = {"id": name, "title": f"film {name}", "channel": "c", "like_count": 500, "view_count": 20000,
            "duration": 6, "comments": comments, "heatmap": heat, **more}  # fmt: skip
    (folder / f"{name}.info.json").write_text(json.dumps(said))
    Image.fromarray(cut(BLUE)[0]).save(folder / f"{name}.jpg")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for n in range(6):
        info(folder, f"v{n}")
        colors = (RED, GREEN) if n % 2 else (GREEN, BLUE, RED)
        films.write(folder / f"v{n}.mp4", cut(*colors, frames=16 // len(colors) * 2 + n), rate=5)
    info(folder, "broken")
    (folder / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42 nothing")
    info(folder, "thumb")  # whose film is not at hand
    return folder


def prepared(
    raw: Path, out: Path, words: str = "video_listing_v1", **video: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    config = get_config("heldout=0")
    config.youtube = ({"folder": str(raw)},)
    config.arms, config.behaviors = ("behavior", "ad", "replay"), ("likes", "comments", "replay")
    config.max_bad_fraction = 0.5
    config.clean.update(use_word_list=False, drop_duplicate_media=False)
    config.video_templates.youtube = words
    config.video.update(video)
    summary = prepare(config, out)
    return summary, {record.id: record for record in records.open_split(out, "behavior_train")}


def test_scenes_are_shown_and_their_replay_values_told(raw: Path, tmp_path: Path) -> None:
    summary, posts = prepared(raw, tmp_path / "out", show="scenes", side=32)
    assert sorted(posts) == ["thumb", *(f"v{n}" for n in range(6))]
    assert summary["quarantine"]["by_reason"] == {"not a video, or broken": 1}
    one = posts["v0"]
    assert len(one.images) == 3 and one.clips[0].first == 0 and len(one.clips[0].times) == 3
    assert [Image.open(io.BytesIO(data)).size for data in one.images] == [(32, 32)] * 3
    spans = one.meta["scene_times"]
    assert all(start <= at < end for (start, end), at in zip(spans, one.clips[0].times, strict=True))
    question, answer = (turn.text for turn in one.conversations)
    assert one.meta["template"] == "video_listing_v1" and question.count("<image>") == 1
    assert "What would the replay graph values for each scene be?" in question
    assert "Scene 2: The foreground colors of the scene are" in answer
    assert "The dominant tone of the scene is cool." in answer  # the blue one
    values = [line.rpartition(" ")[2] for line in answer.split("each scene would be:\n")[1].splitlines()]
    # The graph is 0.1 until 3 s, 1 until 3.6 s, then 0.3: the most of what a scene's span meets.
    expected = ["1.00" if start < 3.6 and end > 3 else "0.10" if end <= 3 else "0.30" for start, end in spans]
    assert values == expected and "1.00" in values
    # A post without a film is what it was: its thumbnail, in the words of thumbnails.
    assert posts["thumb"].meta["template"] == "youtube_thumbnail_v1" and not posts["thumb"].clips
    ad = {record.id: record for record in records.open_split(tmp_path / "out", "ad_train")}
    assert ad["v0"].images == one.images and "replay" not in ad["v0"].conversations[1].text


def test_scenes_have_turns_of_their_own(raw: Path, tmp_path: Path) -> None:
    _, listed = prepared(raw, tmp_path / "listed", show="scenes", side=32)
    summary, posts = prepared(raw, tmp_path / "out", "film_turns_v1", show="scenes", side=32)
    assert sorted(posts) == sorted(listed) and summary["quarantine"]["by_reason"] == {
        "not a video, or broken": 1
    }
    one, other = posts["v0"], listed["v0"]
    assert one.images == other.images and [clip.first for clip in one.clips] == [0, 1, 2]
    assert [clip.times for clip in one.clips] == [(time,) for time in other.clips[0].times]
    assert len(one.media) == 3 and len(one.conversations) == 8
    values = [line.rpartition(" ")[2] for line in other.conversations[1].text.splitlines()[-3:]]
    assert [turn.text[-4:] for turn in one.conversations[1:6:2]] == values
    assert [turn.text.count("<image>") for turn in one.conversations[::2]] == [1, 1, 1, 0]
    ad = {record.id: record for record in records.open_split(tmp_path / "out", "ad_train")}["v0"]
    assert ad.images == one.images and len(ad.conversations) == 6
    # A post without a film has one picture, and so no turns of scenes.
    assert len(posts["thumb"].conversations) == 2 and len(posts["thumb"].images) == 1


def test_a_film_with_more_scenes_than_frames_is_set_aside(raw: Path, tmp_path: Path) -> None:
    post = Post("v0", "youtube", "t", "o:1", scenes=(Scene("a", 0.0, 1.0), Scene("b", 1.0, 3.0)))
    showing = films_lib.Showing("scenes", most=1)
    assert films_lib.times_of(post, showing) == [0.5] == films_lib.times_of(post, showing, [1])
    assert films_lib.times_of(post, showing, [1, 2]) is None
    assert films_lib.times_of(post, films_lib.Showing("scenes"), [2]) == [2.0]


def test_turns_of_scenes_need_scenes(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"video_templates.youtube='film_turns_v1' .* set video.show=scenes"):
        prepared(raw, tmp_path / "out", "film_turns_v1", show="frames")


def test_frames_are_shown_at_a_rate(raw: Path, tmp_path: Path) -> None:
    _, posts = prepared(raw, tmp_path / "out", show="frames", fps=1.0, side=0)
    one = posts["v1"]
    count = len(cut(RED, GREEN, frames=17))
    assert one.clips[0].times == tuple(float(i) for i in range(-(-count // 5)))
    assert [Image.open(io.BytesIO(data)).size for data in one.images] == [(64, 64)] * len(one.images)
    first, last = (
        np.asarray(Image.open(io.BytesIO(data))).mean((0, 1)) for data in (one.images[0], one.images[-1])
    )
    assert first.argmax() == 0 and last.argmax() == 1, "red, then green: RGB"
    _, few = prepared(raw, tmp_path / "few", show="frames", fps=5.0, most=4)
    assert [len(record.images) for name, record in sorted(few.items()) if name != "thumb"] == [4] * 6


def test_films_are_left_where_they_are_unless_wanted(raw: Path, tmp_path: Path) -> None:
    config = get_config("heldout=0")
    config.youtube = ({"folder": str(raw)},)
    config.clean.drop_duplicate_media = False  # their thumbnails are equal
    summary = prepare(config, tmp_path / "out")
    posts = list(records.open_split(tmp_path / "out", "behavior_train"))
    assert summary["quarantine"]["count"] == 0 and len(posts) == 8
    assert not any(record.clips for record in posts)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        ({"show": "frame"}, "video.show='frame'. Did you mean 'frames'"),
        ({"fps": 0.0}, "video.fps=0.0"),
        ({"most": 0}, "video.most=0"),
        ({"side": -1}, "video.side=-1"),
    ],
)
def test_mistakes_are_one_line(raw: Path, tmp_path: Path, video: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepared(raw, tmp_path / "out", **video)
    with pytest.raises(UserError, match=r"no setting video\.shows"):
        films_lib.from_config({"shows": "frames"})


def test_scenes_that_a_post_has_stay(raw: Path) -> None:
    post = Post("v0", "youtube", "t", "o:1", scenes=(Scene("a red wall", 0.0, 1.0), Scene("more", 1.0, 3.0)))
    found, picture = films_lib.with_scenes(post, (raw / "v0.mp4").read_bytes(), films_lib.Showing("scenes"))
    assert found.scenes == post.scenes and picture.size == (64, 64) and found.duration
    assert films_lib.times_of(found, films_lib.Showing("scenes")) == [0.5, 2.0]
    assert films_lib.times_of(found, films_lib.Showing("frames")) is None


def test_a_library_tells_films_from_pictures(raw: Path, tmp_path: Path) -> None:
    library = media.of_folder(raw, tmp_path / "index")
    assert library.find("v1") == str(raw / "v1.jpg") and library.film("v1") == str(raw / "v1.mp4")
    assert library.film("thumb") is None and library.film("nothing", "v2") == str(raw / "v2.mp4")
    assert all(ref.endswith(".jpg") for ref in library.references())
