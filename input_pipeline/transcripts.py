"""What is said in a video, with times: of a transcript beside it or of the captions inside it; and laid among frames.

A transcript is a caption file (.srt, .vtt, YouTube's .json3 and .srv3), Whisper's .json, or plain text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.sources import captions, fields
from input_pipeline.sources.captions import CaptionsError, Line
from input_pipeline.video_file import open_container

LEAST_LOGPROB = -2.0  # of a Whisper segment: LLaMA-VID leaves out what is below
SUFFIXES = (
    ".json",
    ".json3",
    ".vtt",
    ".srt",
    ".srv3",
    ".txt",
)  # the best first; captions inside stand before .txt
_MOST_CUES = 200_000  # ten hours of two a second are 72,000
_STYLE = re.compile(r"\{\\[^{}]*\}")


@dataclass(frozen=True)
class Said:
    """Seconds from the start, and words on one line. A text without times ends at infinity."""

    start: float
    end: float
    text: str


def read_transcript(
    path: str | Path, languages: Sequence[str] = ("en",), least_logprob: float = LEAST_LOGPROB
) -> list[Said]:
    """Returns what is said in a video, or in a transcript file, in order of time.

    For a video that is the first that there is of: a transcript beside it (`a.json`, `a.vtt`, `a.en.vtt` ... of
    `a.mp4`), a caption track inside it, and `a.txt`. Of several languages the first of `languages` is taken, or the
    file that names none. Rows that automatic captions show again count once; sounds in brackets are left out.

    Args:
        path: a video, or a file whose suffix is one of `SUFFIXES`.
        languages: codes, the best first. Containers have codes of three letters; `en` also stands for `eng`.
        least_logprob: Whisper's segments whose mean log-probability is below are left out.

    Returns: nothing where nothing is found beside or inside a video.

    Raises:
        CaptionsError: a transcript that cannot be read.
        VideoError: a video without a transcript beside it that is no video.
    """
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        return _of_file(path, least_logprob)
    for suffix in SUFFIXES[:-1]:
        for middle in ("", *(f".{code}" for code in languages)):
            beside = path.with_name(path.stem + middle + suffix)
            # A .json beside a video may as well be what a downloader says of it.
            if beside.is_file() and (suffix != ".json" or _segments(beside) is not None):
                return _of_file(beside, least_logprob)
    inside = captions_inside(path, languages)
    plain = path.with_suffix(".txt")
    return inside or (_of_file(plain, least_logprob) if plain.is_file() else [])


def captions_inside(source: str | Path | bytes, languages: Sequence[str] = ("en",)) -> list[Said]:
    """Returns the captions of a track of text inside a video (mov_text, SubRip, WebVTT, ASS); [] without one.

    The best track is one in a wanted language, then the default one. Times count from the video's first frame.
    Raises VideoError.
    """
    from av.stream import Disposition

    with open_container(source) as container:
        tracks = [s for s in container.streams.subtitles if s.codec_context is not None]
        rank = lambda s: (
            next(
                (n for n, code in enumerate(languages) if (s.language or "").startswith(code)), len(languages)
            ),
            not s.disposition & Disposition.default,
            s.index,
        )
        videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        video = container.streams.best("video") if videos else None
        first = float((video.start_time or 0) * video.time_base) if video is not None else 0.0
        lines = _cues(container, sorted(tracks, key=rank), first)
    return _said(captions.spoken(lines))


def _cues(container: Any, tracks: list[Any], first: float) -> list[Line]:
    """The cues of the first track that has text; pictures, as DVDs have, are passed over. Read in one go."""
    from av.error import FFmpegError

    found: dict[int, list[Line]] = {track.index: [] for track in tracks}
    size = 0
    try:
        for packet in container.demux(tracks) if tracks else ():
            if not packet.size or packet.pts is None:
                continue
            size += packet.size
            cues = found[packet.stream_index]
            if size > captions.MAX_SIZE or len(cues) > _MOST_CUES:
                break
            start = float(packet.pts * packet.time_base) - first
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base) - first
            text = "\n".join(_texts(packet))
            if end >= 0:
                cues.append(captions.cue(max(start, 0.0), end, text))
    except FFmpegError:
        pass  # what came before it stays
    told = (found[track.index] for track in tracks)
    return next((lines for lines in told if any(line.text for line in lines)), [])


def _texts(packet: Any) -> list[str]:
    """The rows that FFmpeg makes of any format: ASS, eight fields and then the text."""
    from av.error import FFmpegError

    try:
        shown = packet.stream.codec_context.decode2(packet)
    except FFmpegError:
        return []
    rows = [rect.ass.decode("utf-8", "replace") for rect in (shown or ()) if getattr(rect, "ass", None)]
    texts = [row.split(",", 8)[8] for row in rows if row.count(",") >= 8]
    return [
        _STYLE.sub("", text).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ") for text in texts
    ]


def _of_file(path: Path, least_logprob: float) -> list[Said]:
    suffix = path.suffix.lower()
    if suffix == ".json":
        segments = _segments(path)
        if segments is None:
            raise CaptionsError("a transcript without segments")
        return _of_segments(segments, least_logprob)
    if suffix == ".txt":
        text = " ".join(fields.writable(captions.text_of(path, "a transcript", "is")).split())
        return [Said(0.0, math.inf, text)] if text else []
    return _said(captions.spoken(captions.read(path)))


def _segments(path: Path) -> list[Any] | None:
    try:
        value = json.loads(captions.text_of(path, "a transcript", "is"))
    except (ValueError, RecursionError, CaptionsError):
        return None
    segments = value.get("segments") if isinstance(value, dict) else value
    return segments if isinstance(segments, list) else None


def _of_segments(segments: list[Any], least_logprob: float) -> list[Said]:
    """Whisper's segments: {start, end, text, avg_logprob}; the last may be missing, as of WhisperX."""
    lines = []
    for segment in segments:
        if not isinstance(segment, dict):
            raise CaptionsError("a transcript with a segment that is no object")
        start, end = fields.number(segment, "start"), fields.number(segment, "end")
        if start is None or end is None:
            raise CaptionsError("a transcript without times")
        sure = fields.number(segment, "avg_logprob")
        if sure is None or sure >= least_logprob:
            lines.append(captions.cue(start, end, fields.text(segment, "text") or ""))
    return _said(Line(line.start, line.end, " ".join(line.text.split())) for line in lines)


def _said(lines: Iterable[Line]) -> list[Said]:
    found = [Said(line.start, line.end, line.text) for line in lines if line.text]
    return sorted(found, key=lambda said: (said.start, said.end))


def texts_of_frames(said: Iterable[Said], times: Sequence[float]) -> list[str]:
    """What is said up to each frame and behind the one before: one text for each of `times`, seconds that rise.

    LLaMA-VID's order for long videos: for each text in turn, frames are passed whose time lies before its end, and it
    belongs to the last one passed; texts of a frame are joined by a space. A text that ends before the first
    frame belongs to that; in the original to the last one, by an index of -1.
    """
    texts: list[list[str]] = [[] for _ in times]
    passed = 0
    for one in said if times else ():
        while passed < len(times) and times[passed] < one.end:
            passed += 1
        texts[max(passed - 1, 0)].append(one.text)
    return [" ".join(words) for words in texts]


def interleave(said: Iterable[Said], times: Sequence[float], image: str = "<image>") -> str:
    """LLaMA-VID's input of a long video: `<image>text<image>text...`, by `texts_of_frames`.

    A text that holds the mark of an image loses it, so that marks and frames stay as many.
    """
    return "".join(image + text.replace(image, "") for text in texts_of_frames(said, times))
