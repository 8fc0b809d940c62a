"""Which frames are shown at which times, and that finding them decodes no more than it must."""

from __future__ import annotations

import io
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import video_file
from input_pipeline.video import Limits, VideoError, encode_frames, frames
from tests.input_pipeline.films import STEP, greys, write


def shown(source, *rates, **options) -> list[tuple[float, int]]:
    """(time, number of the frame)."""
    return [(at, round(np.asarray(image).mean() / STEP)) for at, image in frames(source, *rates, **options)]


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("film") / "a.mp4", greys(12))


@pytest.mark.parametrize(
    ("rates", "options", "expected"),
    [
        ((), {}, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ((2.0,), {}, [(n / 2, n) for n in range(12)]),
        ((4.0,), {"end": 1.0}, [(0, 0), (0.25, 0), (0.5, 1), (0.75, 1)]),
        ((0.4,), {}, [(0, 0), (2.5, 5), (5, 10)]),
        ((None,), {}, [(n / 2, n) for n in range(12)]),
        ((None,), {"start": 2.0, "end": 3.5}, [(2, 4), (2.5, 5), (3, 6)]),
        ((1.0,), {"start": 2.5}, [(2.5, 5), (3.5, 7), (4.5, 9), (5.5, 11)]),
        ((1.0, 3), {}, [(1, 2), (3, 6), (5, 10)]),  # the middles of three parts
        ((None, 2), {}, [(1.5, 3), (4.5, 9)]),
        ((1.0, 6), {}, [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ((0.01,), {}, [(0, 0)]),
    ],
)
def test_the_frames_that_are_shown(movie, rates, options, expected):
    assert shown(movie, *rates, **options) == shown(movie.read_bytes(), *rates, **options) == expected


def test_what_makes_no_sense_is_said(movie):
    for fps, most in ((0.0, None), (-1.0, None), (float("nan"), None), (1.0, 0)):
        with pytest.raises(ValueError, match="of a video"):
            frames(movie, fps, most)
    for stretch in ({"start": 6.5}, {"start": 2.0, "end": 2.0}):
        with pytest.raises(VideoError, match="no frames in the stretch"):
            next(frames(movie, **stretch))


@pytest.mark.parametrize(("rate", "fps"), [(24, 1.0), (25, 1.0), (30, 2.0), (24, 3.0), (30, 1.5)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])  # exact times, and times rounded to a millisecond
def test_at_whole_numbers_these_are_every_nth(tmp_path, rate, fps, name):
    pictures = [np.full((32, 32, 3), n % 250, np.uint8) for n in range(75)]
    path = write(tmp_path / name, pictures, rate=rate, codec="libx264", bf="2")
    every = [image.tobytes() for _, image in frames(path, None)]
    chosen = [image.tobytes() for _, image in frames(path, fps)]
    assert len(every) == 75 and chosen == every[:: round(rate / fps)]


def test_rates_that_vary(tmp_path):
    times = [0.0, 0.1, 0.2, 2.5, 2.6, 5.0]
    for name in ("a.mkv", "a.mp4"):
        path = write(tmp_path / name, greys(6), times=times, codec="libx264")
        assert [at for at, _ in shown(path, None)] == pytest.approx(times)
        assert shown(path, 1.0)[:6] == [(0, 0), (1, 2), (2, 2), (3, 4), (4, 4), (5, 5)]


def test_time_begins_with_the_first_frame(tmp_path):
    for name in ("a.mkv", "a.ts"):
        times = [5 + n / 2 for n in range(6)]
        path = write(tmp_path / name, greys(6), times=times, codec="libx264")
        assert [(round(at, 6), n) for at, n in shown(path, None)] == [(n / 2, n) for n in range(6)]
        assert shown(path)[:3] == [(0, 0), (1, 2), (2, 4)]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts", "a.mpg", "a.flv"])
@pytest.mark.parametrize("gop", [1, 7, 100])
def test_leaping_to_key_frames_shows_the_same(tmp_path, monkeypatch, name, gop):
    codec = {"a.ts": "libx264", "a.mpg": "mpeg2video", "a.flv": "libx264"}.get(name, "mpeg4")
    rate = 25 if name == "a.mpg" else 10
    pictures = [np.full((32, 32, 3), 2 * n, np.uint8) for n in range(120)]
    path = write(tmp_path / name, pictures, rate=rate, gop=gop, codec=codec)

    def found(most: int) -> list[tuple[float, int]]:
        return [(at, round(np.asarray(image).mean())) for at, image in frames(path, None, most)]

    for most in (2, 7, 30):
        monkeypatch.setattr(video_file, "_JUMP", 10**9)
        every = found(most)
        monkeypatch.setattr(video_file, "_JUMP", 0)
        assert found(most) == every
        assert len(every) == most and sorted(every) == every


def test_what_lies_between_key_frames_is_skipped(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mkv", greys(1) * 100, rate=10, gop=10)
    few = Limits(work=2 * 12 * 32 * 32)
    assert len(list(frames(path, 1.0, 2, limits=few))) == 2
    monkeypatch.setattr(video_file, "_JUMP", 10**9)
    with pytest.raises(VideoError, match="too much to decode"):
        list(frames(path, 1.0, 2, limits=few))


def test_few_pictures_are_held(movie):
    held: list[weakref.ref] = []
    for _, image in frames(movie, 2.0):
        held.append(weakref.ref(image))
        del image
        assert sum(ref() is not None for ref in held) <= 2
    assert len(held) == 12


def test_arrays_and_folders_have_a_frame_at_each_tick(tmp_path):
    pictures = np.stack(greys(12, 8, 6))
    np.save(tmp_path / "a.npy", pictures)
    np.save(tmp_path / "b.npy", pictures.transpose(0, 3, 1, 2))
    np.save(tmp_path / "c.npy", np.asfortranarray(pictures))
    (tmp_path / "d").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "d" / f"{number}.png")
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy", "d")]
    for source in (*paths, *(path.read_bytes() for path in paths[:3])):
        assert shown(source, 2.0) == [(n / 2, n) for n in range(12)]
        assert shown(source, None, 3) == [(2, 2), (6, 6), (10, 10)]
        assert shown(source, 1.0, start=3.0, end=5.0) == [(3, 3), (4, 4)]
        assert next(frames(source, side=3))[1].size == (4, 3)
    data = bytearray(paths[0].read_bytes())
    data[data.index(b"(12,") : data.index(b"(12,") + 4] = b"(99,"
    with pytest.raises(VideoError, match="not an array of frames"):
        next(frames(bytes(data)))


def test_pictures_for_records(movie, tmp_path):
    pictures, times = encode_frames(movie, 4.0, side=16)
    assert times == [n / 4 for n in range(24)]
    assert (pictures, times) == encode_frames(movie.read_bytes(), 4.0, side=16)
    for number, data in enumerate(pictures):
        image = Image.open(io.BytesIO(data))
        assert image.format == "JPEG" and image.mode == "RGB" and image.size == (16, 16)
        assert round(np.asarray(image).mean() / STEP) == number // 2
        assert data is pictures[number // 2 * 2]
    assert encode_frames(movie, 4.0, 5)[1] == pytest.approx([0.6, 1.8, 3.0, 4.2, 5.4])
    assert len(encode_frames(movie, quality=20)[0][3]) < len(encode_frames(movie, quality=99)[0][3])
