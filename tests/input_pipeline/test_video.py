"""Which frames of a video are shown, told by their brightness; and what is no video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import video
from input_pipeline.video import VideoError, is_video, read_frames

STEP = 20  # of grey between two frames


def film(path: Path, count: int, rate: int = 2, gop: int = 12, **options: str) -> Path:
    """`count` frames of 1 / rate seconds, frame n of grey STEP * n."""
    import av

    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        stream.codec_context.gop_size = gop
        stream.codec_context.options = {"sc_threshold": "1000000000"}  # no key frames of the encoder's own
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), STEP * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def seen(path: Path, count: int, start: float | None = None, end: float | None = None) -> list[int]:
    """The numbers of the frames."""
    return [round(np.asarray(image).mean() / STEP) for image in read_frames(path, count, start, end)]


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "a.mp4", 12)


@pytest.mark.parametrize(
    ("count", "stretch", "frames"),
    [
        (1, (None, None), [6]),  # 6 s; the middle of all is at 3 s
        (3, (None, None), [2, 6, 10]),  # 1 s, 3 s, 5 s
        (12, (None, None), list(range(12))),
        (24, (None, None), [n // 2 for n in range(24)]),
        (2, (2.0, 4.0), [5, 7]),  # 2.5 s and 3.5 s
        (1, (5.0, 60.0), [11]),  # to the end: 5.5 s
        (1, (None, 1.0), [1]),
    ],
)
def test_the_middles_of_equal_parts(movie, count, stretch, frames):
    assert seen(movie, count, *stretch) == frames


def test_every_key_frame_layout_shows_the_same(tmp_path):
    for gop in (1, 5):
        assert seen(film(tmp_path / f"{gop}.avi", 12, gop=gop), 3) == [2, 6, 10]


def test_arrays_and_folders(tmp_path):
    frames = np.stack([np.full((8, 8, 3), STEP * n, np.uint8) for n in range(12)])
    np.save(tmp_path / "a.npy", frames)
    np.save(tmp_path / "b.npy", frames.transpose(0, 3, 1, 2))
    (tmp_path / "c").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / "c" / f"frame{number}.png")  # 10 is behind 9
    for name in ("a.npy", "b.npy", "c"):
        assert is_video(tmp_path / name) and seen(tmp_path / name, 3) == [2, 6, 10]
        with pytest.raises(VideoError, match="a stretch of frames without times"):
            read_frames(tmp_path / name, 1, 0.0, 1.0)
    (tmp_path / "c" / "film.mp4").touch()  # beside thumbnails, say
    with pytest.raises(VideoError, match="a folder of films, not of frames"):
        read_frames(tmp_path / "c", 3)


def test_a_file_that_breaks_off_gives_what_there_is(tmp_path):
    path = film(tmp_path / "a.mkv", 12, gop=1)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    found = seen(path, 12)
    last = found[-1]
    assert 3 < last < 11 and found == [*range(last), *[last] * (12 - last)]
    told: list[str] = []
    read_frames(path, 12, tell=told.append)
    assert told == [video.ENDS_EARLY]
    read_frames(path, 1, end=1.0, tell=told.append)
    assert len(told) == 1, "what is asked for is there"


def test_a_whole_video_has_no_faults(tmp_path, movie):
    still = film(tmp_path / "still.mp4", 1, rate=1)  # its only frame is shown for a second
    for path, count in ((movie, 1), (movie, 24), (still, 4), (film(tmp_path / "a.mkv", 12, gop=1), 24)):
        read_frames(path, count, tell=lambda what: pytest.fail(what))


def test_a_recording_that_does_not_say_how_long_it_is(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mkv", 12, gop=1, live="1")
    monkeypatch.setattr(video, "_MOST_DECODED", 3)
    assert seen(path, 3) == [2, 6, 10]


def test_another_frame_than_the_wanted_is_not_shown(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mkv", 12, gop=12)
    assert seen(path, 1) == [6]
    monkeypatch.setattr(video, "_MOST_DECODED", 3)
    with pytest.raises(VideoError, match="too many frames without a key frame"):
        read_frames(path, 1)


def not_videos(folder: Path) -> list[tuple[Path, str]]:
    """Paths, and what is said of them."""
    (folder / "empty").mkdir()
    (folder / "text.mp4").write_text("no video")
    (folder / "nothing.mp4").write_bytes(b"")
    (folder / "text.npy").write_text("no array")
    np.save(folder / "floats.npy", np.zeros((2, 8, 8, 3)))
    np.savez(folder / "several.npz", a=np.zeros(2, np.uint8))
    (folder / "several.npz").rename(folder / "several.npy")
    return [
        (folder / "none.mp4", "no such file"),
        (folder / "empty", "no frames"),
        (folder / "text.mp4", "not a video, or broken"),
        (folder / "nothing.mp4", "not a video, or broken"),
        (folder / "text.npy", "not an array of frames"),
        (folder / "floats.npy", "an array that is not uint8"),
        (folder / "several.npy", "not an array of frames"),
        (folder / f"{'x' * 300}.mp4", "no such file"),
        (folder / "a\0b.mp4", "no such file"),
    ]


def test_what_is_no_video_is_said(tmp_path, movie):
    for path, said in not_videos(tmp_path):
        with pytest.raises(VideoError, match=said):
            read_frames(path, 2)
    with pytest.raises(VideoError, match="no frames in the stretch"):
        read_frames(movie, 2, 60.0, 70.0)
    assert not is_video(tmp_path / ("x" * 300))
