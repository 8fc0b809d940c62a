"""The film of a post: its scenes as far as pixels tell them, and the frames that a record holds of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from PIL import Image

from input_pipeline.behavior import verbalise
from input_pipeline.errors import UserError, nearest
from input_pipeline.scenes import scenes
from input_pipeline.sources import media
from input_pipeline.types import Post, Scene
from input_pipeline.video import encode_at, encode_frames
from input_pipeline.video_file import VideoError

NOT_EACH = "no frame for each scene that is told"
SHOWS = ("thumbnail", "frames", "scenes")
_LOOK_SIDE = 96  # pixels: colours and fingerprints need no more
Frames = tuple[list[bytes], list[float]]


@dataclass(frozen=True)
class Showing:
    """What records show of a post that has a film.

    show: its thumbnail; frames, so many a second; or a frame of each of its scenes, as in the released Behavior-LLaVA.
    fps, most: of frames; more than `most` become so many, evenly spread. `most` bounds scenes too. side: of the shorter
    side, in pixels; smaller films stay as they are. 0 is none.
    """

    show: str = "thumbnail"
    fps: float = 1.0
    most: int = 600
    side: int = 336

    def __post_init__(self) -> None:
        if self.show not in SHOWS:
            raise UserError(f"prepare config: video.show={self.show!r}.{nearest(str(self.show), SHOWS)}")
        if not isinstance(self.fps, int | float) or not 0 < self.fps <= 120:
            raise UserError(f"prepare config: video.fps={self.fps!r} is no number of frames a second")
        for name, least in (("most", 1), ("side", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise UserError(
                    f"prepare config: video.{name}={value!r} is not a whole number from {least} on"
                )

    @property
    def films(self) -> bool:
        """Whether films are looked for at all."""
        return self.show != "thumbnail"


def with_scenes(
    post: Post, data: bytes, showing: Showing, tell: Callable[[str], None] = lambda what: None
) -> tuple[Post, Image.Image]:
    """The post with the scenes of its film, and a picture of it (of its middle scene).

    Scenes that the post has already (chapters, or of a data set) stay. Those that are found are told by colours and
    tone; `jaxllava verbalise` adds words. Raises VideoError.
    """
    found: list[Scene] = []
    pictures: list[Image.Image] = []
    for cut, picture in scenes(data, most=showing.most, side=_LOOK_SIDE, tell=tell):
        assert picture is not None
        seen = verbalise.describe(picture)
        found.append(
            Scene("", cut.start, cut.end, (), seen.foreground, seen.background, seen.tone, "", cut.keyframe)
        )
        pictures.append(picture)
    own = post.scenes or tuple(found)
    return replace(post, scenes=own, duration=post.duration or found[-1].end), pictures[len(pictures) // 2]


def times_of(post: Post, showing: Showing, apart: Sequence[int] | None = None) -> list[float] | None:
    """At which times of a film a record shows it; None is `fps` frames a second.

    Args: apart: of these scenes alone, by number from 1 on; None of all. Nothing is returned where one has no frame.
    """
    spans = [(scene.start, scene.end, scene.keyframe) for scene in post.scenes[: showing.most]]
    if showing.show != "scenes" or not spans or any(start is None or end is None for start, end, _ in spans):
        return None
    times = [(start + end) / 2 if key is None else key for start, end, key in spans]  # type: ignore[operator]
    if apart is None:
        return times
    return [times[number - 1] for number in apart] if max(apart) <= len(times) else None


def load(reference: str, times: Sequence[float] | None, showing: Showing) -> Frames:
    """The frames of a film as encoded pictures, and their times. Raises OSError and VideoError."""
    data = media.read(reference)
    side = showing.side or None
    if times is not None:
        rising = sorted(set(times))
        found = dict(zip(rising, encode_at(data, rising, side=side)[0], strict=True))
        return [found[at] for at in times], list(times)
    return encode_frames(data, showing.fps, showing.most, side=side)


def why_unreadable(reference: str) -> str:
    """Why no frame of a film can be had; '' where one can."""
    try:
        encode_frames(media.read(reference), most=1, side=_LOOK_SIDE)
    except VideoError as error:
        return error.reason
    except OSError:
        return "video file cannot be read"
    return ""


def from_config(settings: Any) -> Showing:
    """Of the config's `video`. UserError for a name or value that is none."""
    known = {"show", "fps", "most", "side"}
    for name in settings:
        if name not in known:
            raise UserError(f"prepare config: no setting video.{name}.{nearest(name, known)}")
    return Showing(**settings)
