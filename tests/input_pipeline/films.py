"""Small films for tests, encoded by PyAV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

STEP = 20  # of grey between two frames of `greys`


def greys(count: int, width: int = 32, height: int = 32, noise: int = 0) -> list[np.ndarray]:
    """Frame n is of grey STEP * n, and up to `noise` brighter, so that its bytes outweigh those of headers."""
    random = np.random.default_rng(0)
    shape = (height, width, 3)
    return [(STEP * n + random.integers(0, noise + 1, shape)).astype(np.uint8) for n in range(count)]


def write(
    path: Path,
    pictures: Iterable[np.ndarray],
    times: Sequence[float] | None = None,
    rate: int = 2,
    codec: str = "mpeg4",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    colorspace: int | None = None,
    ratio: Fraction | None = None,
    muxer: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Pictures are uint8 [H, W, 3 or 4]; `times` in seconds, by default one after another at `rate`."""
    import av

    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = None
        for number, picture in enumerate(pictures):
            if stream is None:
                stream = container.add_stream(codec, rate=rate)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, rate)
                stream.codec_context.gop_size = gop
                if codec == "mpeg4":
                    stream.bit_rate = 4_000_000
                    options = {"sc_threshold": "1000000000", **options}  # no key frames of the encoder's own
                if colorspace is not None:
                    stream.codec_context.colorspace = colorspace
                if ratio is not None:
                    stream.codec_context.sample_aspect_ratio = ratio
                stream.codec_context.options = options
            format = "rgba" if picture.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=format)
            full = 2 if pix_fmt.startswith("yuvj") else 1
            frame = frame.reformat(format=pix_fmt, dst_colorspace=colorspace, dst_color_range=full)
            frame.pts = round(times[number] * 1000) if times else number
            frame.time_base = Fraction(1, 1000) if times else Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def patched(path: Path, mark: bytes, offset: int, new: bytes) -> Path:
    """A copy of a file with other bytes behind the first `mark`, `offset` from where that begins."""
    data = bytearray(path.read_bytes())
    at = data.index(mark) + offset
    data[at : at + len(new)] = new
    copy = path.with_stem(f"{path.stem}-patched")
    copy.write_bytes(data)
    return copy
