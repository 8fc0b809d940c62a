"""What decoders are given that is odd or bad: colours, turns, shapes, and claims that no file should be believed."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import video_file
from input_pipeline.video import BROKEN, ENDS_EARLY, Limits, VideoError, encode_frames, frames
from tests.input_pipeline.films import STEP, greys, patched, write

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "video"
RED, GREEN, BLUE, WHITE = (200, 30, 40), (30, 180, 60), (20, 50, 210), (255, 255, 255)


def corners(width: int = 64, height: int = 48) -> np.ndarray:
    """Red, green / blue, white: [H, W, 3]."""
    picture = np.zeros((height, width, 3), np.uint8)
    for row, colors in enumerate(((RED, GREEN), (BLUE, WHITE))):
        for column, color in enumerate(colors):
            picture[row * height // 2 :, column * width // 2 :] = color
    return picture


def first(source, **options) -> Image.Image:
    return next(frames(source, **options))[1]


def close(found: Image.Image, expected: np.ndarray, most: float = 6) -> None:
    """Equal but for what the encoder loses, measured in the middles of the four quarters."""
    assert found.size == expected.shape[1::-1]
    height, width = expected.shape[:2]
    for y in (height // 4, height * 3 // 4):
        for x in (width // 4, width * 3 // 4):
            got = np.asarray(found)[y, x].astype(int)
            assert np.abs(got - expected[y, x]).max() <= most, (x, y, got, expected[y, x])


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "colorspace"),
    [
        ("a.mp4", "libx264", "yuv420p", None),
        ("hd.mp4", "libx264", "yuv420p", 1),  # BT.709: taken for BT.601 the green would be 22 off
        ("full.mp4", "libx264", "yuvj420p", 1),
        ("ten.mkv", "ffv1", "yuv420p10le", None),
        ("a.webm", "libvpx-vp9", "yuv420p", None),
        ("rgb.mkv", "ffv1", "bgr0", None),
        ("a.avi", "mjpeg", "yuvj422p", None),
    ],
)
def test_colours_are_what_was_filmed(tmp_path, name, codec, pix_fmt, colorspace):
    path = write(tmp_path / name, [corners()] * 3, codec=codec, pix_fmt=pix_fmt, colorspace=colorspace)
    close(first(path), corners())
    close(first(path.read_bytes(), side=24), corners(32, 24))


def test_grey_and_odd_sizes(tmp_path):
    path = write(tmp_path / "a.mkv", greys(3, 33, 17), codec="ffv1", pix_fmt="gray")
    close([image for _, image in frames(path, 2)][2], greys(3, 33, 17)[2], 1)
    path = write(tmp_path / "b.webm", [corners(33, 17)], codec="libvpx-vp9")
    close(first(path), corners(33, 17), 12)


def test_transparency_is_laid_on_white(tmp_path):
    clear = np.dstack([corners(), np.full((48, 64), 255, np.uint8)])
    clear[:24, :32, 3] = 0
    expected = corners()
    expected[:24, :32] = WHITE
    for name, codec, pix_fmt in (("a.webm", "libvpx-vp9", "yuva420p"), ("a.mov", "qtrle", "argb")):
        close(first(write(tmp_path / name, [clear] * 3, codec=codec, pix_fmt=pix_fmt)), expected)


TURNS = {  # the display matrix (a, b, c, d), and what it makes of a picture
    (1, 0, 0, 1): lambda p: p,
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),  # how a telephone held upright writes it
    (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
    (0, -1, 1, 0): lambda p: np.rot90(p, 1),
    (-1, 0, 0, 1): lambda p: p[:, ::-1],
    (1, 0, 0, -1): lambda p: p[::-1],
    (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda p: np.rot90(p, 2).transpose(1, 0, 2),
    (0, 0, 0, 0): lambda p: p,  # broken
}


@pytest.mark.parametrize("matrix", TURNS)
def test_pictures_are_turned_upright(tmp_path, matrix):
    path = write(tmp_path / "a.mp4", [corners()] * 2, codec="libx264")
    a, b, c, d = (value * 0x10000 for value in matrix)
    turned = patched(path, b"tkhd", 44, struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30))
    close(first(turned), TURNS[matrix](corners()))
    close(first(turned, side=24), TURNS[matrix](corners(32, 24)))


def test_pixels_that_are_not_square(tmp_path):
    path = write(tmp_path / "a.mp4", [corners()] * 2, ratio=Fraction(2, 1))
    close(first(path), corners(64, 24))
    path = write(tmp_path / "b.mp4", [corners()] * 2, ratio=Fraction(1, 2))
    close(first(path), corners(32, 48))


@pytest.fixture(scope="module")
def movie(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    return write(folder / "a.mp4", greys(12), codec="libx264", muxer={"movflags": "faststart"})


def reason(source, **options) -> str:
    with pytest.raises(VideoError) as caught:
        list(frames(source, **options))
    with pytest.raises(VideoError):
        encode_frames(source, limits=options.get("limits", video_file.LIMITS))
    assert len(caught.value.reason) < 60
    return caught.value.reason


def test_what_is_no_video_is_named(tmp_path, movie):
    import av

    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "inner.mp4").write_bytes(movie.read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile inner.mp4\n")
    (tmp_path / "play.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:{movie}\n#EXT-X-ENDLIST\n"
    )
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert reason(b"") == "not a video, or broken: empty"
    assert reason(tmp_path / "none.mp4") == reason(f"http://{'x' * 300}") == "no such file"
    assert reason(tmp_path / "sound.mp4") == "no video stream"
    assert reason(np.random.default_rng(0).bytes(5000)) == "not a video, or broken"
    assert reason(movie.read_bytes()[:400]) in ("not a video, or broken", "no decoder for it")
    for odd in (b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{}"):
        assert reason(odd) == "not an array of frames"
    for name in ("text", "list", "play"):  # a playlist would have any file of this machine read
        assert reason(tmp_path / f"{name}.mp4") == "not a video, or broken"
        assert reason((tmp_path / f"{name}.mp4").read_bytes()) == "not a video, or broken"


def test_what_is_encrypted_or_overwritten_is_named(tmp_path, movie):
    assert reason(patched(movie, b"avc1\0", 0, b"encv")) == "no decoder for it"
    data = movie.read_bytes()
    start = data.index(b"mdat") + 4
    noise = np.random.default_rng(0).bytes(len(data) - start)
    assert reason(data[:start] + noise) == "no frame can be decoded"


def test_wrong_suffixes_and_one_frame(tmp_path, movie):
    other = tmp_path / "a.webm"
    other.write_bytes(movie.read_bytes())
    assert len(list(frames(other, 2.0))) == 12
    one = write(tmp_path / "one.mkv", greys(1))
    assert [at for at, _ in frames(one)] == [0.0]


def numbers(found: list[tuple[float, Image.Image]]) -> list[int]:
    return [int(np.asarray(image).mean() / STEP) for _, image in found]


@pytest.mark.parametrize(("name", "codec"), [("a.mov", "png"), ("a.mkv", "mjpeg")])
def test_a_file_that_breaks_off_gives_what_there_is(tmp_path, name, codec):
    muxer = {"movflags": "faststart"} if name == "a.mov" else {}
    pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
    path = write(tmp_path / name, greys(12, noise=12), codec=codec, pix_fmt=pix_fmt, muxer=muxer)
    data, told = path.read_bytes(), []
    found = list(frames(data[: len(data) * 8 // 10], 2.0, tell=told.append))
    assert ENDS_EARLY in told
    assert 6 < len(found) < 11 and numbers(found) == list(range(len(found)))
    assert [at for at, _ in found] == [n / 2 for n in range(len(found))]
    without_index = write(tmp_path / "b.mp4", greys(3)).read_bytes()
    without_index = without_index[: without_index.index(b"moov")]
    assert reason(without_index) == "not a video, or broken"


def test_a_hole_shows_the_frame_before_it(tmp_path):
    import av

    path = write(tmp_path / "a.mov", greys(12, noise=12), codec="png", pix_fmt="rgb24")
    data, told = bytearray(path.read_bytes()), []
    with av.open(str(path)) as container:
        fifth = bytes([packet for packet in container.demux() if packet.size][5])
    at = data.index(fifth) + len(fifth) // 2
    data[at : at + 200] = bytes(200)
    found = list(frames(bytes(data), 2.0, tell=told.append))
    assert numbers(found) == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]
    assert told == [BROKEN] and found[4][1] is found[5][1]


def test_what_leans_on_a_hole_is_not_shown(tmp_path):
    import av

    path = write(
        tmp_path / "a.mp4", greys(12, noise=12), gop=5, codec="libx264", bf="0", crf="5", sc_threshold="0"
    )
    data, told = bytearray(path.read_bytes()), []
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        assert [packet.is_keyframe for packet in packets[:6]] == [True, *[False] * 4, True]
        data[packets[3].pos : packets[3].pos + 4] = b"\x7f\xff\xff\xff"  # the length of its only unit
    found = list(frames(bytes(data), 2.0, tell=told.append))
    assert numbers(found) == [0, 1, 2, 2, 2, 5, 6, 7, 8, 9, 10, 11] and told == [BROKEN]


def test_pictures_that_grow_on_the_way(tmp_path):
    import av

    parts = [write(tmp_path / f"{side}.webm", greys(4, side, side), codec="libvpx") for side in (32, 256)]
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        out = None
        for number, part in enumerate(parts):
            with av.open(str(part)) as one:
                out = out or container.add_stream_from_template(one.streams[0])
                for packet in one.demux():
                    if packet.size and packet.pts is not None:
                        packet.stream, packet.pts, packet.dts = out, packet.pts + 2000 * number, None
                        packet.dts = packet.pts
                        container.mux(packet)
    told: list[str] = []
    sizes = [image.width for _, image in frames(tmp_path / "a.webm", None)]
    assert sizes == [32] * 4 + [256] * 4
    found = list(frames(tmp_path / "a.webm", 2.0, limits=Limits(pixels=10_000), tell=told.append))
    assert [image.width for _, image in found] == [32] * 4 and told == [BROKEN, ENDS_EARLY]


def test_claims_cost_nothing(tmp_path, movie):
    for path in (
        patched(movie, b"stts", 12, struct.pack(">I", 10**9)),  # frames
        patched(movie, b"mdhd", 20, struct.pack(">I", 2**32 - 2)),  # ticks
        patched(write(tmp_path / "a.avi", greys(12)), b"avih", 24, struct.pack("<I", 10**9)),
        patched(write(tmp_path / "b.avi", greys(12)), b"strf", 12, struct.pack("<2i", 100_000, 100_000)),
    ):
        assert len(list(frames(path, 2.0))) == 12
    told: list[str] = []
    path = patched(write(tmp_path / "a.mkv", greys(12)), b"\x44\x89\x88", 3, struct.pack(">d", 1e15))
    assert len(list(frames(path, 2.0, tell=told.append))) == 12 and told == [ENDS_EARLY]
    with pytest.raises(VideoError):
        list(frames(patched(movie, b"stsz", 8, struct.pack(">II", 1, 170_000_000))))  # samples of one byte


def test_large_pictures_are_refused_before_they_are_decoded(tmp_path):
    path = write(tmp_path / "a.webm", greys(2), codec="libvpx")
    # The header of a VP8 key frame claims 16383 x 16383, the container 32 x 32.
    claims = patched(path, b"\x9d\x01\x2a", 3, struct.pack("<2H", 16383, 16383))
    assert reason(claims) in ("no frame can be decoded", "pictures of too many pixels")
    assert reason(path, limits=Limits(pixels=1000)) == "pictures of too many pixels"


def test_what_costs_too_much_is_named(tmp_path, movie):
    assert reason(movie, limits=Limits(work=5 * 32 * 32)) == "too much to decode"
    assert reason(movie, limits=Limits(busy=0.0)) == "takes too long"
    assert reason(movie, limits=Limits(length=5.0)) == "longer than a video may be"
    late = write(
        tmp_path / "late.mkv", greys(3), times=[0.0, 1.0, 200_000.0], codec="mjpeg", pix_fmt="yuvj420p"
    )
    assert reason(late) == "longer than a video may be"


def test_8k_in_little_memory(tmp_path):
    import resource

    picture = np.zeros((4320, 7680, 3), np.uint8)
    picture[:, 3840:] = 255
    path = write(tmp_path / "a.mp4", [picture], codec="libx264", preset="ultrafast")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    image = first(path, side=224)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert image.size == (398, 224) and np.asarray(image)[:, 210:].min() > 240
    assert grown < 300  # MiB; in full size RGB alone is 100 MiB, its copies twice that


@pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")
def test_real_files():
    assert first(REAL / "rotated_90.mov").size == (320, 568)
    assert first(REAL / "nasa_13013.mp4").size == (480, 270), "the larger of two streams"
    assert len(list(frames(REAL / "nasa_13013.mp4"))) == 14
    told: list[str] = []
    assert len(list(frames(REAL / "corrupted.mp4", 10.0, tell=told.append))) == 28 and ENDS_EARLY in told
    slow = [at for at, _ in frames(REAL / "sample_android_slow_motion.mp4", None)]
    assert len(slow) == 7 and slow[1] == pytest.approx(29281 / 90000)
    assert reason(REAL / "sample_opus.mp4") == "no video stream"
