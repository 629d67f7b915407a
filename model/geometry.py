"""Every rate and length of a model, derived in one place with exact fractions.

A block is a whole number of video latents and of audio latents that last exactly as long as each other; anything else would
drift. The published model's scripts write 24 fps, at which its 24-frame block lasts 1.0 s against 0.96 s of audio; at 25 fps both
last 0.96 s, so 25 fps is what we play.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from model.errors import ConfigError


def patch_shape(patch_cells: int | tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of latent cells a token."""
    return (patch_cells, patch_cells) if isinstance(patch_cells, int) else patch_cells


@dataclass(frozen=True)
class Geometry:
    """Rates and strides of one model.

    Attributes:
        fps: pictures a second.
        sample_rate_hz: audio samples a second.
        height_px, width_px: size of a picture.
        spatial_stride_px: picture pixels a latent cell, each way.
        temporal_stride_frames: pictures a video latent.
        first_latent_frames: pictures that the very first latent of a stream decodes to. A causal VAE in Wan's manner gives 1;
            the missing ones are the *lead-in*, filled by holding the first picture.
        patch_cells: latent cells a token: one number for both ways, or (rows, columns).
        audio_latent_samples: samples an audio latent.
        block_video_latents: video latents denoised together.
    """

    fps: int
    sample_rate_hz: int
    height_px: int
    width_px: int
    spatial_stride_px: int
    temporal_stride_frames: int
    first_latent_frames: int
    patch_cells: int | tuple[int, int]
    audio_latent_samples: int
    block_video_latents: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if min(value if isinstance(value, tuple) else (value,)) <= 0:
                raise ConfigError(f"geometry.{name} must be positive, got {value}")
        if self.first_latent_frames > self.temporal_stride_frames:
            raise ConfigError(
                f"geometry.first_latent_frames {self.first_latent_frames} exceeds the stride {self.temporal_stride_frames}"
            )
        rows, columns = (self.spatial_stride_px * cells for cells in patch_shape(self.patch_cells))
        if self.height_px % rows or self.width_px % columns:
            raise ConfigError(f"{self.width_px}x{self.height_px} is not a multiple of {columns}x{rows} px (stride x patch)")
        latents = self.video_latent_duration_s * self.sample_rate_hz / self.audio_latent_samples
        if latents.denominator != 1:
            raise ConfigError(
                f"a video latent lasts {self.video_latent_duration_s} s, which is {float(latents):.3f} audio latents: "
                "video and audio would drift apart"
            )

    @property
    def frame_duration_s(self) -> Fraction:
        return Fraction(1, self.fps)

    @property
    def video_latent_duration_s(self) -> Fraction:
        return Fraction(self.temporal_stride_frames, self.fps)

    @property
    def block_duration_s(self) -> Fraction:
        return self.video_latent_duration_s * self.block_video_latents

    @property
    def audio_latents_per_video_latent(self) -> int:
        return int(self.video_latent_duration_s * self.sample_rate_hz / self.audio_latent_samples)

    @property
    def block_audio_latents(self) -> int:
        return self.audio_latents_per_video_latent * self.block_video_latents

    @property
    def block_frames(self) -> int:
        return self.temporal_stride_frames * self.block_video_latents

    @property
    def block_samples(self) -> int:
        return self.audio_latent_samples * self.block_audio_latents

    @property
    def lead_in_frames(self) -> int:
        """Pictures that the first block lacks."""
        return self.temporal_stride_frames - self.first_latent_frames

    @property
    def latent_height(self) -> int:
        return self.height_px // self.spatial_stride_px

    @property
    def latent_width(self) -> int:
        return self.width_px // self.spatial_stride_px

    @property
    def grid_height(self) -> int:
        """Token rows a video latent."""
        return self.latent_height // patch_shape(self.patch_cells)[0]

    @property
    def grid_width(self) -> int:
        """Token columns a video latent."""
        return self.latent_width // patch_shape(self.patch_cells)[1]

    @property
    def tokens_per_video_latent(self) -> int:
        return self.grid_height * self.grid_width
