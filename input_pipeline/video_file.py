"""An encoded video, opened, indexed and decoded in bounds: what `input_pipeline.video` and `scenes` read frames with.

PyAV (FFmpeg) decodes. A header is believed in nothing that costs memory or time: how long a video is and where its
key frames lie is read off its packets, and how much is decoded is counted.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image

from input_pipeline.video_picture import FrameDrawer

SUFFIXES = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".3gp")
BROKEN = "parts of a video cannot be decoded, the frame before them is shown instead"
BACKWARDS = "times of a video run backwards, frames are left out"
NOT_A_VIDEO = "not a video, or broken"

# Formats that hold a video by themselves. Left open, a playlist that is named .mp4 would have FFmpeg open whatever
# files and addresses it lists.
_FORMATS = (
    "3g2,3gp,asf,avi,dv,flv,gif,h264,hevc,ivf,m4a,m4v,matroska,mj2,mov,mp4,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm,"
    "webm,wtv,yuv4mpegpipe"
)
# Formats whose every frame has a time of its own. In MPEG's program streams times are off by one after a seek.
_STAMPED = {"mov", "matroska", "avi", "flv", "mpegts"}
_MOST_PACKETS = 5_000_000  # times of that many frames are 40 MB; at 60 a second they last 23 hours
LATE = 1.0  # seconds that the last frame may end before a header says so: headers round
_JUMP = 8  # frames: a key frame that is nearer is reached sooner by decoding on
_SLACK = 0.0005  # seconds at most that a container's rounding may lay a frame behind its time
_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # FFmpeg's own decoders leave the transparency of WebM out


class VideoError(ValueError):
    """A video that cannot be read. `reason` is short and names no path, so that reports can count it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What one video may cost. More is an error with its own reason, not a shorter result.

    pixels: of one picture; 8192 x 8192 by default. Decoders refuse more before they allocate it.
    length: seconds from the first frame to the end of the last.
    work: decoded pixels, wanted or not. The default is twice three hours of 4K at 24 frames a second.
    busy: seconds of the processor that this thread may spend in one video.
    """

    pixels: int = 2**26
    length: float = 86_400.0
    work: float = 4e12
    busy: float = 3 * 3600.0


LIMITS = Limits()


@dataclass(frozen=True)
class Timeline:
    """What the packets of a video say; seconds from its first frame."""

    starts: array[float]  # when each frame is first shown, sorted; empty where packets have no times
    keys: array[float]  # those a decoder can begin with, sorted
    end: float  # when the last frame has been shown
    reached: float  # the end of the last packet of any stream


class Film:
    """A video stream of an open file. Times are seconds from its first frame, which most players start with."""

    def __init__(self, container: Any, stream: Any, limits: Limits, tell: Callable[[str], None]) -> None:
        self.container = container
        self.stream = stream
        self.limits = limits
        self.base = Fraction(stream.time_base or Fraction(1, 1000))
        self.first = int(stream.start_time or 0)  # in units of `base`
        # A time as the container rounds it: up to half a unit late. Where a unit is a frame, times are exact.
        self.slack = min(float(self.base) / 2, _SLACK)
        self._tell = tell
        self.newest = float("-inf")  # when the last decoded frame begins
        self.span = 0.0  # seconds from the one before it to that
        self._told: set[str] = set()
        self._work = 0
        self._begun = time.thread_time()
        self._drawer = FrameDrawer()
        self._decoder = _decoder(stream, limits)

    def tell(self, what: str) -> None:
        """Tells a fault, each kind once."""
        if what not in self._told:
            self._told.add(what)
            self._tell(what)

    def seconds(self, stamp: int) -> float:
        return (stamp - self.first) * self.base.numerator / self.base.denominator

    def timeline(self) -> Timeline:
        """Reads every packet once, undecoded: some hundredths of what decoding takes.

        Raises VideoError for a video without frames, or above the limits.
        """
        from av.error import FFmpegError

        stamps, keys = array("q"), array("q")
        end, spans, packets = 0, 0, 0
        bases = [float(stream.time_base or 0) for stream in self.container.streams]
        reached = 0.0
        for packet in self._packets(None):
            done = (packet.pts or 0) + (packet.duration or 0)
            reached = max(reached, done * bases[packet.stream_index])
            if packet.stream_index != self.stream.index or packet.is_discard:
                continue  # what an edit list leaves out is decoded and not shown
            packets += 1
            spans += packet.duration or 0
            if packets > _MOST_PACKETS:
                raise VideoError("too many frames")
            if packet.pts is not None:
                stamps.append(packet.pts)
                end = max(end, done) if len(stamps) > 1 else done
                if packet.is_keyframe:
                    keys.append(packet.pts)
        if not packets:
            raise VideoError("no frames")
        with contextlib.suppress(FFmpegError, OSError):  # of a format that cannot seek nothing is read again
            self.rewind()
        if len(stamps) == packets:
            self.first = min(stamps)
            starts = array("d", map(self.seconds, sorted(stamps)))
            length = self.seconds(end)
            if (
                length <= starts[-1]
            ):  # nothing says how long the last frame is shown: as long as the one before
                length = starts[-1] + (starts[-1] - starts[-2] if len(starts) > 1 else 0.0)
            begins = array("d", map(self.seconds, sorted(keys)))
        else:
            starts, begins = array("d"), array("d")
            rate = self.stream.average_rate or self.stream.guessed_rate
            length = float(packets / rate) if rate else float(spans * self.base)
        if length > self.limits.length:
            raise VideoError("longer than a video may be")
        first = float(self.first * self.base)
        return Timeline(starts, begins, length, reached - first)

    def claimed(self) -> float:
        """Seconds that the header says, of the stream or of the longest one; 0.0 where it says nothing."""
        if self.stream.duration:
            return float(self.stream.duration * self.base)
        return (self.container.duration or 0) / 1_000_000

    def end_of(self, frame: Any) -> float:
        """When a frame has been shown for its duration; of a frame without a time there is none."""
        return float("inf") if frame.pts is None else self.seconds(frame.pts + (frame.duration or 0))

    def breaks_off(self, line: Timeline) -> bool:
        """Whether the header says that the video goes on behind its last packet."""
        return self.claimed() > max(line.end, line.reached) + LATE

    def rewind(self) -> None:
        """Back to the first packet."""
        self.container.seek(min(self.first, 0), stream=self.stream, backward=True)

    def seek(self, at: float) -> None:
        """To the key frame at that time, or one before it; `frames` begins there."""
        self.container.seek(self.first + round(at / float(self.base)), stream=self.stream, backward=True)

    def _packets(self, stream: Any) -> Iterator[Any]:
        """Of a file that breaks off, those before it does."""
        from av.error import FFmpegError

        try:
            for number, packet in enumerate(self.container.demux(*([] if stream is None else [stream]))):
                # A look at this clock may take as long as a small packet.
                if number % 16 == 0 and time.thread_time() - self._begun > self.limits.busy:
                    raise VideoError("takes too long")
                if packet.size:
                    yield packet
        except (FFmpegError, OSError):
            self.tell(BROKEN)

    def frames(self, from_key: bool = False) -> Iterator[tuple[float, Any]]:
        """(time, decoded frame) from here to the end, in the order in which they are shown.

        Where decoding fails, it goes on with the next key frame: what lies between would be smeared. `from_key`:
        nothing is decoded before the first key frame, as after a seek.
        """
        from av.error import FFmpegError

        decoder = self._decoder
        decoder.flush_buffers()
        last, number = float("-inf"), 0
        rate = self.stream.average_rate or self.stream.guessed_rate
        # A null packet at the end has the decoder give what it still holds.
        for packet in _then_none(self._packets(self.stream)):
            if packet is not None and from_key and not packet.is_keyframe:
                continue
            from_key = False
            try:
                decoded = decoder.decode(packet)
            except FFmpegError:
                self.tell(BROKEN)
                if packet is not None:
                    decoder.flush_buffers()
                    from_key = True
                continue
            for frame in decoded:
                self._work += frame.width * frame.height
                if self._work > self.limits.work:
                    raise VideoError("too much to decode")
                if frame.pts is not None:
                    at = self.seconds(frame.pts)
                else:
                    at = number / float(rate) if rate else 0.0
                number += 1
                if at < last:
                    self.tell(BACKWARDS)
                    continue
                self.newest, self.span = at, at - last if number > 1 else 0.0
                last = at
                yield at, frame

    def short_of(self, begin: float) -> bool:
        """Whether what was decoded ends before the frame that begins then. The last packet may hold half a frame."""
        return begin - self.newest > max(0.75 * self.span, 1e-3)

    def picture(self, frame: Any, side: int | None = None, quick: bool = False) -> Image.Image:
        """The frame as it is meant to be seen, as `FrameDrawer.draw` says."""
        return self._drawer.draw(frame, float(self.stream.sample_aspect_ratio or 1), side, quick)


@contextlib.contextmanager
def open_video(
    source: str | Path | bytes,
    limits: Limits = LIMITS,
    threads: int = 1,
    tell: Callable[[str], None] = lambda what: None,
) -> Iterator[Film]:
    """The best video stream of a file or of a file's bytes: not a cover, of several the largest.

    Raises VideoError, inside the block too for whatever a library raises on data that lies.
    """
    with open_container(source) as container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise VideoError("no video stream")
        best = container.streams.best("video")
        stream: Any = best if best in streams else streams[0]
        if stream.codec_context is None:
            raise VideoError("no decoder for it")
        if stream.width * stream.height > limits.pixels:
            raise VideoError("pictures of too many pixels")
        if threads != 1:
            stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        yield Film(container, stream, limits, tell)


@contextlib.contextmanager
def open_container(source: str | Path | bytes) -> Iterator[Any]:
    """An open file of any streams. Raises VideoError, as `open_video` does."""
    import av

    with _named(), contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            size, file = len(source), io.BytesIO(source)
        else:
            if not os.path.isfile(source):  # noqa: PTH113 (Path.is_file raises for names that no file can have)
                raise VideoError("no such file")
            # What stands before a colon in a name may be a protocol to FFmpeg.
            size, file = os.path.getsize(source), f"file:{source}"  # noqa: PTH202
        if not size:
            raise VideoError(f"{NOT_A_VIDEO}: empty")
        # Not `options`, which PyAV hands to each stream: it counts them before all are found, and crashes on MPEG.
        options = {"format_whitelist": _FORMATS}
        yield stack.enter_context(contextlib.closing(av.open(file, "r", container_options=options)))


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except (VideoError, ImportError, GeneratorExit):
        raise
    except Exception as error:  # TypeError, AttributeError ... on headers that lie, OSError of the system
        raise VideoError(NOT_A_VIDEO) from error


def shown(film: Film, wanted: Iterable[float], line: Timeline) -> Iterator[tuple[float, Any, bool]]:
    """(time, the frame that is shown then, whether the video ended before it) for times that rise.

    Each stretch is decoded once at most, and what lies before the last key frame before a time is skipped. Times
    before the first frame show that. Raises VideoError where nothing can be decoded.
    """
    walk = _Walk(film)
    jumps = bool(_STAMPED & set(film.container.format.name.split(",")))
    for at in wanted:
        upto = at + film.slack
        begun = bisect_right(line.starts, upto)  # frames shown until then
        begin = line.starts[begun - 1] if begun else None  # of the one shown then
        key = bisect_right(line.keys, upto) - 1
        if jumps and key >= 0:
            skipped = bisect_right(line.starts, line.keys[key]) - bisect_right(line.starts, walk.position)
            # Where the format cannot seek so exactly, all is decoded from the start on.
            if skipped > _JUMP and not walk.jump(line.keys[key], upto):
                walk, jumps = _Walk(film, rewind=True), False
        walk.to(upto, begin)
        if walk.current is None:
            raise VideoError("no frame can be decoded")
        late = upto - LATE > walk.position if begin is None else film.short_of(begin)
        yield at, walk.current, walk.over and late


class _Walk:
    """Decodes on to given times. `current` is the frame shown, `position` when the newest decoded one begins."""

    def __init__(self, film: Film, rewind: bool = False) -> None:
        self.film = film
        if rewind:
            film.rewind()
        self.running = film.frames()
        self.position = float("-inf")
        self.current: Any = None
        self.ahead: Any = None  # a decoded frame whose time has not come
        self.over = False

    def to(self, upto: float, begin: float | None) -> None:
        """Until `current` is what is shown at `upto`; `begin` is when that begins, if known."""
        while True:
            if self.ahead is None:
                # Known to be the one, the next need not be decoded to tell.
                if self.over or (begin is not None and self.position >= begin - 1e-6):
                    return
                self._pull()
            if self.ahead is None or (self.position > upto and self.current is not None):
                return
            self.current, self.ahead = self.ahead, None

    def jump(self, key: float, upto: float) -> bool:
        """To a key frame; False where a frame behind `upto`, or none, is the first that comes."""
        self.film.seek(key)
        self.running, self.over, self.ahead = self.film.frames(from_key=True), False, None
        self._pull()
        return self.ahead is not None and self.position <= upto

    def _pull(self) -> None:
        found = next(self.running, None)
        if found is None:
            self.over = True
        else:
            self.position, self.ahead = found


def _decoder(stream: Any, limits: Limits) -> Any:
    from av.codec import CodecContext

    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in _ALPHA:
        with contextlib.suppress(Exception):  # a build without libvpx shows such a video without transparency
            clear: Any = CodecContext.create(_ALPHA[decoder.name], "r")
            clear.extradata = decoder.extradata
            clear.thread_count = decoder.thread_count
            decoder = clear
    decoder.options = {"max_pixels": str(limits.pixels)}
    return decoder


def _is_cover(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _then_none(packets: Iterator[Any]) -> Iterator[Any]:
    yield from packets
    yield None
