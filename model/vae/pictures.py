"""Pictures as an RGB VAE has them, [B, 3, T, H, W] in [-1, 1]: from images, and to the codec's planes, on their own device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels.eager import i420_from_frames

__all__ = ["cover", "frames_from_rgb", "i420_from_frames"]


def frames_from_rgb(rgb: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3] -> float32 [B, 3, T, H, W] in [-1, 1]."""
    return rgb.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def cover(image: Tensor, height_px: int, width_px: int) -> Tensor:
    """Resize an image so that it just covers a picture, and cut off evenly what sticks out.

    Args:
        image: uint8 [h, w, 3], RGB.

    Returns:
        uint8 [height_px, width_px, 3].

    Raises:
        ValueError: not such an image.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.numel() == 0:
        raise ValueError(
            f"an image is uint8 [height, width, 3], got {str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
        )
    height, width, _ = image.shape
    scale = max(height_px / height, width_px / width)
    size = max(height_px, round(height * scale)), max(width_px, round(width * scale))
    planes = image.permute(2, 0, 1).unsqueeze(0).float()
    if size != (height, width):
        planes = F.interpolate(planes, size, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size[0] - height_px) // 2, (size[1] - width_px) // 2
    cut = planes[0, :, top : top + height_px, left : left + width_px]
    return cut.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
