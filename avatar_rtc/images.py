"""Pictures that people send for a stream to begin with: checked, and decoded to RGB."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import av

from avatar_rtc.errors import ImageError
from model.chunk import Image

MAX_BYTES = 10_000_000
MIN_SIDE_PX, MAX_SIDE_PX = 64, 8192
MAX_MESSAGE_SIDE_PX = 2048
"""Of a picture in a message, which is decoded between two packets of a call."""
DAMAGED = "The image is damaged. Send it again."
_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}


def read_image(path: Path) -> Image:
    """A JPEG or PNG file.

    Raises:
        ImageError: it is none, too large, too small or damaged; OSError: it cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(f"{path} has more than {MAX_BYTES // 1_000_000} MB. Make the picture smaller.")
    return _decode(path.read_bytes(), MAX_SIDE_PX)


def decode_base64(text: str) -> Image:
    """A picture in a message; errors as in :func:`read_image`."""
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise ImageError("The image is not base64. Send the bytes of a JPEG or PNG file in base64.") from None
    return _decode(data, MAX_MESSAGE_SIDE_PX)


def _decode(data: bytes, max_side_px: int) -> Image:
    kind = next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)
    if kind is None:
        raise ImageError("The image is neither JPEG nor PNG. Convert it to one of them.")
    try:
        with av.open(io.BytesIO(data), "r", format=f"{kind}_pipe") as container:
            codec = container.streams.video[0].codec_context
            if not codec.width:
                raise ImageError(DAMAGED)
            if not all(MIN_SIDE_PX <= side_px <= max_side_px for side_px in (codec.width, codec.height)):
                size = f"{codec.width}x{codec.height}"
                raise ImageError(f"The image has {size} pixels. Its sides may have {MIN_SIDE_PX} to {max_side_px} pixels.")
            rgb = next(container.decode(video=0)).to_ndarray(format="rgb24")
    except (av.FFmpegError, StopIteration, IndexError):
        raise ImageError(DAMAGED) from None
    return Image(rgb.shape[0], rgb.shape[1], rgb.tobytes())
