"""What is said in a video: transcripts beside it, captions inside it, and the prompt of a long video."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from input_pipeline.sources.captions import CaptionsError
from input_pipeline.transcripts import Said, captions_inside, interleave, read_transcript, texts_of_frames
from input_pipeline.video import VideoError
from tests.input_pipeline.films import greys, write

REAL = Path(os.environ.get("JAXLLAVA_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "video"
SRT = "1\n00:00:01,000 --> 00:00:02,500\nHé <i>said</i>\nthis\n\n2\n00:00:03,000 --> 00:00:04,000\n[music]\n"
SEGMENTS = [
    {"id": 0, "start": 0.0, "end": 2.0, "text": " Hello there.", "avg_logprob": -0.2},
    {"id": 1, "start": 2.0, "end": 4.0, "text": " mumble", "avg_logprob": -2.01},
    {"id": 2, "start": 4, "end": 6.5, "text": " So\nit is.", "avg_logprob": -2.0},
    {"id": 3, "start": 6.5, "end": 7.0, "text": "  ", "avg_logprob": -0.1},
]


def test_files_of_every_kind(tmp_path):
    (tmp_path / "a.srt").write_text(SRT)
    assert read_transcript(tmp_path / "a.srt") == [Said(1.0, 2.5, "Hé said this")]
    (tmp_path / "b.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.500\n<v Ann>Hé said\n")
    assert read_transcript(tmp_path / "b.vtt") == [Said(1.0, 2.5, "Hé said")]
    (tmp_path / "c.json").write_text(json.dumps({"text": "...", "segments": SEGMENTS, "language": "en"}))
    whisper = [Said(0.0, 2.0, "Hello there."), Said(4.0, 6.5, "So it is.")]
    assert read_transcript(tmp_path / "c.json") == whisper
    assert len(read_transcript(tmp_path / "c.json", least_logprob=-math.inf)) == 3
    (tmp_path / "d.json").write_text(
        json.dumps([{k: v for k, v in SEGMENTS[1].items() if k != "avg_logprob"}])
    )
    assert read_transcript(tmp_path / "d.json") == [Said(2.0, 4.0, "mumble")]
    (tmp_path / "e.txt").write_text("All that\nis said.\n")
    assert read_transcript(tmp_path / "e.txt") == [Said(0.0, math.inf, "All that is said.")]


def test_rows_that_roll_count_once(tmp_path):
    rows = ["WEBVTT", "", "00:00.000 --> 00:02.000", " ", "so<00:00:01.000><c> it</c>", ""]
    rows += ["00:02.000 --> 00:02.010", "so it", " ", "", "00:02.010 --> 00:04.000", "so it", "begins", ""]
    (tmp_path / "a.vtt").write_text("\n".join(rows))
    assert [said.text for said in read_transcript(tmp_path / "a.vtt")] == ["so it", "begins"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.json", "{", "without segments"),
        ("a.json", '{"title": "a video"}', "without segments"),
        ("a.json", '{"segments": [1]}', "a segment that is no object"),
        ("a.json", '{"segments": [{"start": 1, "text": "a"}]}', "without times"),
        ("a.json", '{"segments": [{"start": 1, "end": "NaN", "text": "a"}]}', "without times"),
        ("a.srt", "no captions", "without times"),
        ("a.txt", b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CaptionsError, match=reason):
        read_transcript(tmp_path / name)
    with pytest.raises(CaptionsError):
        read_transcript(tmp_path / "none.srt")


def captioned(path: Path, *tracks: tuple[str, Path]) -> Path:
    """A film of six seconds whose first frame comes at 0.5 s, with the captions of (language, file) inside."""
    import av

    times = [0.5 + n / 2 for n in range(12)]
    film = write(path.with_name("film.mkv"), greys(12), times=times, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path), "w") as container:
        packets = []
        for language, file in (("und", film), *tracks):
            source = av.open(str(file))
            out = container.add_stream_from_template(source.streams[0])
            out.metadata["language"] = language
            packets += [(p.pts * p.time_base, p, out) for p in source.demux() if p.size]
        for _, packet, out in sorted(packets, key=lambda found: found[0]):
            packet.stream = out
            container.mux(packet)
    return path


def test_the_track_in_a_wanted_language(tmp_path):
    (tmp_path / "en.srt").write_text(SRT)
    (tmp_path / "de.srt").write_text(SRT.replace("said", "sagte"))
    tracks = [("ger", tmp_path / "de.srt"), ("eng", tmp_path / "en.srt")]
    path = captioned(tmp_path / "video.mkv", *tracks)
    texts = lambda *languages: [said.text for said in captions_inside(path, languages)]
    assert texts("en") == texts("fr", "eng") == ["Hé said this"]
    assert texts("ger", "en") == texts("fr") == ["Hé sagte this"]


def test_captions_inside_a_video(tmp_path):
    (tmp_path / "a.srt").write_text(SRT)
    path = captioned(tmp_path / "video.mkv", ("eng", tmp_path / "a.srt"))
    # Times count from the first frame, as those of frames do.
    expected = [Said(0.5, 2.0, "Hé said this")]
    assert captions_inside(path) == captions_inside(path.read_bytes()) == read_transcript(path) == expected
    assert captions_inside(write(tmp_path / "mute.mp4", greys(2))) == []


def test_what_lies_beside_a_video_comes_first(tmp_path):
    (tmp_path / "a.srt").write_text(SRT)
    path = captioned(tmp_path / "video.mkv", ("eng", tmp_path / "a.srt"))
    texts = lambda: [said.text for said in read_transcript(path)]
    (tmp_path / "video.txt").write_text("plain")
    assert texts() == ["Hé said this"], "it has times"
    (tmp_path / "video.de.srt").write_text(SRT.replace("said", "sagte"))
    (tmp_path / "video.json").write_text('{"title": "of a downloader"}')
    assert texts() == ["Hé said this"]
    (tmp_path / "video.en.srt").write_text(SRT.replace("said", "wrote"))
    assert texts() == ["Hé wrote this"]
    assert read_transcript(path, ("de",))[0].text == "Hé sagte this"
    (tmp_path / "video.json").write_text(json.dumps({"segments": SEGMENTS}))
    assert texts() == ["Hello there.", "So it is."]
    mute = write(tmp_path / "mute.mp4", greys(2))
    assert read_transcript(mute) == []
    (tmp_path / "mute.txt").write_text("plain")
    assert [said.text for said in read_transcript(mute)] == ["plain"]
    (tmp_path / "broken.mp4").write_text("no video")
    with pytest.raises(VideoError):
        read_transcript(tmp_path / "broken.mp4")


def test_the_prompt_of_a_long_video():
    said = [Said(0.2, 0.9, "a"), Said(0.9, 2.0, "b"), Said(2.0, 2.5, "c"), Said(2.5, 9.0, "d <image> e")]
    assert interleave(said, [0, 1, 2, 3]) == "<image>a<image>b<image>c<image>d  e"
    assert texts_of_frames(said[:2], [0.0]) == ["a b"]
    assert texts_of_frames([Said(0.0, 0.0, "early")], [0.0, 1.0]) == ["early", ""]
    assert texts_of_frames(said, []) == [] and interleave([], [0, 1]) == "<image><image>"


def test_texts_go_to_the_last_frame_before_their_end():
    random = np.random.default_rng(0)
    for _ in range(50):
        times = np.sort(random.uniform(0, 20, 10)) - 1e-3
        times[0] = 0.0
        ends = np.sort(random.uniform(0.1, 25, 12))
        said = [Said(end - 0.1, end, f"t{number}") for number, end in enumerate(ends)]
        expected = [[] for _ in times]
        for one in said:
            expected[max(n for n, at in enumerate(times) if at < one.end)].append(one.text)
        assert texts_of_frames(said, times.tolist()) == [" ".join(words) for words in expected]


@pytest.mark.skipif(not REAL.is_dir(), reason="no real sample data")
def test_a_real_track():
    found = read_transcript(REAL / "nasa_13013.mp4")
    assert len(found) == 4 and found[0].start == 0.21 and found[1].end == 8.35
    assert found[2].text == "at NASA’s Goddard Space Flight Center in Greenbelt, Maryland."
    assert interleave(found, list(range(13))).count("<image>") == 13
