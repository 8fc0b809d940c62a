"""Frames of a video file, for prompts that take pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from input_pipeline.errors import UserError, in_one_line


def read_frames(path: str | Path, count: int) -> list[Image.Image]:
    """`count` RGB frames evenly spread from a video's first to its last, in order; all of a shorter one.

    Raises UserError where the file cannot be read or PyAV is not installed.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise UserError("videos need PyAV: pip install 'jaxllava[lmms-eval]', or pip install av") from None
    if not Path(path).is_file():
        raise UserError(f"video {path}: no such file")
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # What a header says is often wrong or missing: count, in a pass that decodes nothing.
            total = sum(packet.size > 0 for packet in container.demux(stream))
            wanted = set(np.linspace(0, max(total - 1, 0), count).astype(int).tolist())
            container.seek(0)
            found = [
                frame.to_image() for number, frame in enumerate(container.decode(stream)) if number in wanted
            ]
    except (FFmpegError, IndexError, ValueError) as error:
        raise UserError(f"video {path}: cannot be read: {in_one_line(error)}") from error
    if not found:
        raise UserError(f"video {path}: holds no frames")
    return found
