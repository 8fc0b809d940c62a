"""Where scenes are cut, and which frame stands for each, on drawn films and a real one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline.scenes import ENDS_EARLY, TOO_MANY, Cut, find_scenes, scenes
from input_pipeline.video import VideoError, frames
from tests.input_pipeline.films import write

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "video"
RATE = 10


def blots(seed: int, side: int = 96) -> np.ndarray:
    """Blots of colour that a camera could follow: [side, side, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (side // 24, side // 24, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def pan(seed: int, count: int, still: int | None = None) -> list[np.ndarray]:
    """A camera that moves two pixels a frame, and not at all for half a second from frame `still` on."""
    picture, at, found = blots(seed, 240), 0, []
    for number in range(count):
        found.append(picture[at : at + 96, at // 2 : at // 2 + 96])
        at += 0 if still is not None and still <= number < still + RATE // 2 else 2
    return found


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> Path:
    pictures = [*pan(1, 20, still=9), *pan(2, 30, still=20), *pan(3, 15, still=3)]
    return write(tmp_path_factory.mktemp("film") / "a.mp4", pictures, rate=RATE, codec="libx264", bf="2")


def test_cuts_and_the_frames_of_least_motion(movie):
    found = find_scenes(movie)
    assert [(cut.start, cut.end) for cut in found] == [(0, 2), (2, 5), (5, 6.5)]
    for cut, still in zip(found, (0.9, 4.0, 5.3), strict=True):
        assert still <= cut.keyframe <= still + 0.6
    assert found == find_scenes(movie.read_bytes())


def test_pictures_are_those_of_the_keyframes(movie):
    shown = {round(at, 3): image for at, image in frames(movie, None)}
    for cut, image in scenes(movie):
        assert image is not None and image.tobytes() == shown[round(cut.keyframe, 3)].tobytes()
    assert all(image is not None and image.size == (32, 32) for _, image in scenes(movie, side=32))
    assert all(image is None for _, image in scenes(movie, pictures=False))


def test_scenes_cover_the_video_in_any_bounds(movie):
    told: list[str] = []
    for options, ends in (
        ({"most": 2}, [2, 6.5]),
        ({"most": 1}, [6.5]),
        ({"threshold": 255.0}, [6.5]),
        ({"shortest": 2.5}, [5, 6.5]),  # 2 s after the start is too soon
        ({"end": 4.0}, [2, 4]),
        ({"end": 60.0}, [2, 5, 6.5]),
    ):
        found = find_scenes(movie, tell=told.append, **options)
        assert [cut.end for cut in found] == ends
        assert [cut.start for cut in found] == [0.0, *ends[:-1]]
        assert all(cut.start <= cut.keyframe < cut.end for cut in found)
    assert told == [TOO_MANY, TOO_MANY]


def test_black_stands_for_nothing_else(tmp_path):
    black = np.zeros((96, 96, 3), np.uint8)
    fade = [(picture * (n / 10)).astype(np.uint8) for n, picture in enumerate(pan(1, 10))]
    path = write(tmp_path / "a.mp4", [*[black] * 10, *fade, *pan(2, 20)], rate=RATE, codec="libx264")
    first = find_scenes(path, threshold=255.0)[0]
    assert first.keyframe >= 1.1
    path = write(tmp_path / "b.mp4", [black] * 20, rate=RATE)
    assert [(cut.start, cut.end) for cut in find_scenes(path)] == [(0, 2)]


def test_a_single_frame_is_a_scene(tmp_path):
    path = write(tmp_path / "a.mp4", [blots(1)], rate=1)
    assert find_scenes(path) == [Cut(0.0, 1.0, 0.0)]
    assert len(find_scenes(write(tmp_path / "tiny.mkv", [blots(1)[:8, :8]] * 30, rate=RATE))) == 1


def test_what_breaks_off_is_told(tmp_path):
    path = write(tmp_path / "a.mkv", [*pan(1, 20), *pan(2, 20)], rate=RATE, codec="mjpeg", pix_fmt="yuvj420p")
    data, told = path.read_bytes(), []
    found = find_scenes(data[: len(data) * 7 // 10], tell=told.append)
    assert [cut.start for cut in found] == [0.0, 2.0] and 2.3 < found[-1].end < 3.0
    assert ENDS_EARLY in told
    with pytest.raises(VideoError, match="not a video"):
        find_scenes(b"no video")


@pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")
def test_a_real_film():
    found = find_scenes(REAL / "nasa_13013.mp4")
    assert [round(cut.start, 1) for cut in found] == [0.0, 5.0, 8.0]
    assert found[-1].end == pytest.approx(13.01, abs=0.01)
