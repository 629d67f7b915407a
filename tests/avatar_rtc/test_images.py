from __future__ import annotations

import base64
from pathlib import Path

import av
import numpy as np
import pytest

from avatar_rtc.errors import ImageError
from avatar_rtc.images import decode_base64, read_image


def encoded(codec: str, width_px: int, height_px: int) -> bytes:
    """A picture whose left half is red and whose right half is blue."""
    rgb = np.zeros((height_px, width_px, 3), np.uint8)
    rgb[:, : width_px // 2, 0] = rgb[:, width_px // 2 :, 2] = 255
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height = width_px, height_px  # type: ignore[attr-defined]
    encoder.pix_fmt = "yuvj444p" if codec == "mjpeg" else "rgb24"  # type: ignore[attr-defined]
    encoder.time_base = 1  # type: ignore[assignment]
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=encoder.pix_fmt)  # type: ignore[attr-defined]
    packets = [*encoder.encode(frame), *encoder.encode(None)]  # type: ignore[attr-defined]
    return b"".join(bytes(packet) for packet in packets)


@pytest.mark.parametrize("codec", ["mjpeg", "png"])
def test_jpeg_and_png_are_read(tmp_path: Path, codec: str) -> None:
    data = encoded(codec, 96, 64)
    (tmp_path / "picture").write_bytes(data)
    for image in (read_image(tmp_path / "picture"), decode_base64(base64.b64encode(data).decode())):
        assert (image.height_px, image.width_px) == (64, 96)
        rgb = np.frombuffer(image.rgb, np.uint8).reshape(64, 96, 3).astype(int)
        assert np.abs(rgb[32, 10] - (255, 0, 0)).max() < 12
        assert np.abs(rgb[32, 80] - (0, 0, 255)).max() < 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("?!", "not base64"),
        (base64.b64encode(b"GIF89a" + bytes(100)).decode(), "neither JPEG nor PNG"),
        (base64.b64encode(encoded("png", 96, 64)[:60]).decode(), "damaged"),
        (base64.b64encode(encoded("png", 32, 64)).decode(), "32x64 pixels"),
        (base64.b64encode(encoded("png", 64, 4000)).decode(), "64 to 2048"),
    ],
)
def test_what_is_no_picture_is_told(text: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode_base64(text)
