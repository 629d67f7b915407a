"""The judge of pictures: VideoReward (arXiv 2501.13918), a Qwen2-VL that is asked three questions about a clip and its prompt.

Facts of the published measurement: two pictures a second, an even number of at least four; each scaled to a multiple of 28 pixels
a side and to between 100,352 and 200,704 pixels in all; the question holds a token of its own for each answer, and a linear head
reads the hidden state there. Answers are standardised by statistics that lie with the weights.

The question is the authors' own text, which is neither ours nor part of their weights: :data:`QUESTION_FILE` is read for it.
"""

from __future__ import annotations

import ast
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.adapters.videoreward import HEAD, to_plain
from model.errors import CheckpointError, ConfigError
from model.rewards.judge import Clip
from model.weight_files import fill

DIRECTORY, BASE = "VideoReward", "Qwen2-VL-2B-Instruct"
"""Places in the directory that ``avatar-rtc download reward`` fills."""
QUESTION_FILE, QUESTION_NAME = "prompt_template.py", "DETAILED_PROMPT_WITH_SPECIAL_TOKEN"
QUESTION_ADDRESS = "https://raw.githubusercontent.com/KwaiVGI/VideoAlign/main/prompt_template.py"
REWARD_TOKENS = {
    "visual_quality": "<|VQ_reward|>",
    "motion_quality": "<|MQ_reward|>",
    "text_alignment": "<|TA_reward|>",
}
"""In the order in which a head with three outputs has them."""
_STATISTICS = {"visual_quality": "VQ", "motion_quality": "MQ", "text_alignment": "TA"}
VIDEO_TOKEN = "<|video_pad|>"

FPS, MIN_FRAMES, FRAME_MULTIPLE = 2.0, 4, 2
MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 448 * 448
PATCH_PX, MERGE, PATCH_FRAMES = 14, 2, 2
MEANS, DEVIATIONS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class VideoReward(nn.Module):
    """The network: transformers' ``Qwen2VLModel`` and a head over hidden states."""

    def __init__(self, base: Any, num_outputs: int) -> None:
        super().__init__()
        self.base = base
        self.rm_head = nn.Linear(base.config.text_config.hidden_size, num_outputs, bias=False)

    def forward(self, ids: Tensor, patches: Tensor, grid: Tensor, reward_ids: Sequence[int]) -> Tensor:
        """What the head says at each of ``reward_ids``: float32 [3].

        Args:
            ids: [S], with a video token for each place of ``patches`` after merging.
            patches: [P, C * F * h * w] of a clip; ``grid`` [3] says how many in time, height and width.
        """
        video = ids == self.base.config.video_token_id
        hidden = self.base(
            input_ids=ids.unsqueeze(0),
            attention_mask=torch.ones_like(ids).unsqueeze(0),
            pixel_values_videos=patches.to(self.rm_head.weight.dtype),
            video_grid_thw=grid.unsqueeze(0),
            mm_token_type_ids=2 * video.int().unsqueeze(0),
            use_cache=False,
        )[0][0]
        answers = self.rm_head(hidden)
        places = [int((ids == token).nonzero()[-1]) for token in reward_ids]
        columns = range(3) if answers.shape[1] == 3 else (0, 0, 0)
        return torch.stack([answers[place, column] for place, column in zip(places, columns, strict=True)]).float()


class AlignmentJudge:
    """Implements :class:`model.rewards.judge.Judge`.

    Args:
        tokenize: ids of a question about a prompt and a video of so many tokens.
        reward_ids: of :data:`REWARD_TOKENS`.
        statistics: mean and standard deviation of each reward.
    """

    def __init__(
        self,
        network: VideoReward,
        tokenize: Callable[[str, int], Sequence[int]],
        reward_ids: Sequence[int],
        statistics: Mapping[str, tuple[float, float]],
    ) -> None:
        self.module: nn.Module = network.eval().requires_grad_(False)
        self._network, self._tokenize, self._reward_ids, self._statistics = network, tokenize, reward_ids, statistics

    @torch.no_grad()
    def __call__(self, clips: Sequence[Clip]) -> Mapping[str, Tensor]:
        found = torch.stack([self._one(clip) for clip in clips])
        return {
            name: (found[:, i] - self._statistics[name][0]) / self._statistics[name][1] for i, name in enumerate(REWARD_TOKENS)
        }

    def _one(self, clip: Clip) -> Tensor:
        device = self._network.rm_head.weight.device
        patches, grid = patches_of(sampled(clip.frames.to(device), clip.fps))
        num_tokens = math.prod(grid) // MERGE**2
        ids = torch.tensor(list(self._tokenize(clip.prompt, num_tokens)), device=device)
        return self._network(ids, patches, torch.tensor(grid, device=device), self._reward_ids)


def sampled(frames: Tensor, fps: float) -> Tensor:
    """Pictures at :data:`FPS`, evenly spread from the first to the last: uint8 [T, H, W, 3] of frames of the same form."""
    wanted = len(frames) / fps * FPS
    most = len(frames) // FRAME_MULTIPLE * FRAME_MULTIPLE
    num = min(max(MIN_FRAMES, math.floor(wanted / FRAME_MULTIPLE) * FRAME_MULTIPLE), most)
    if num < FRAME_MULTIPLE:
        raise ConfigError(f"the judge of pictures wants {FRAME_MULTIPLE} frames or more, not {len(frames)}")
    return frames[torch.linspace(0, len(frames) - 1, num).round().long().to(frames.device)]


def size_of(height: int, width: int) -> tuple[int, int]:
    """Height and width that pictures are scaled to."""
    unit = PATCH_PX * MERGE

    def fitted(scale: float, rounded: Callable[[float], int]) -> tuple[int, int]:
        return tuple(max(unit, rounded(x * scale / unit) * unit) for x in (height, width))  # type: ignore[return-value]

    size = fitted(1.0, round)
    if math.prod(size) > MAX_PIXELS:
        return fitted(math.sqrt(MAX_PIXELS / (height * width)), math.floor)
    if math.prod(size) < MIN_PIXELS:
        return fitted(math.sqrt(MIN_PIXELS / (height * width)), math.ceil)
    return size


def patches_of(frames: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """What the network sees of pictures uint8 [T, H, W, 3]: patches [P, values], those that are merged side by side; their number
    in time, height and width."""
    height, width = size_of(*frames.shape[1:3])
    x = F.interpolate(frames.permute(0, 3, 1, 2).float(), (height, width), mode="bicubic", antialias=True, align_corners=False)
    x = x.clamp(0, 255).round() / 255
    x = (x - x.new_tensor(MEANS).view(3, 1, 1)) / x.new_tensor(DEVIATIONS).view(3, 1, 1)
    grid = len(x) // PATCH_FRAMES, height // PATCH_PX, width // PATCH_PX
    sides = [part for n in grid[1:] for part in (n // MERGE, MERGE, PATCH_PX)]
    x = x.view(grid[0], PATCH_FRAMES, 3, *sides)
    return x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(math.prod(grid), -1), grid


def read_question(path: Path) -> str:
    """The published question, with ``{text_prompt}`` in it, out of the authors' file, of which nothing is run.

    Raises:
        CheckpointError: it is missing, or holds no such question.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: fetch it from {QUESTION_ADDRESS}")
    try:
        assigned = [x for x in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(x, ast.Assign)]
        named = [x.value for x in assigned if getattr(x.targets[0], "id", None) == QUESTION_NAME]
        question = ast.literal_eval(named[0]) if named else None
    except (SyntaxError, ValueError):
        question = None
    if not isinstance(question, str) or not all(part in question for part in ("{text_prompt}", *REWARD_TOKENS.values())):
        raise CheckpointError(f"{path} has no {QUESTION_NAME} with {{text_prompt}} and the tokens of rewards: fetch it anew")
    return question


def load_alignment_judge(weights: Path, dtype: torch.dtype = torch.bfloat16) -> AlignmentJudge:
    """From the published files.

    Raises:
        CheckpointError: one is missing, damaged, or something else; ConfigError: transformers is missing.
    """
    directory, base = weights / DIRECTORY, weights / BASE
    config_path, tensors_path = directory / "model_config.json", max(directory.glob("checkpoint-*/model.pth"), default=None)
    for path in (config_path, tensors_path or directory / "checkpoint-11352" / "model.pth", base / "config.json"):
        if not path.is_file():
            raise CheckpointError(f"{path} is missing: fetch it with 'avatar-rtc download reward'")
    assert tensors_path is not None
    question = read_question(directory / QUESTION_FILE)
    if find_spec("transformers") is None:
        raise ConfigError("the judge of pictures needs transformers: pip install 'avatar-rtc[reward]'")
    from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLModel

    published = json.loads(config_path.read_text(encoding="utf-8"))
    tokenizer: Any = AutoTokenizer.from_pretrained(base, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": list(REWARD_TOKENS.values())})
    config: Any = Qwen2VLConfig.from_pretrained(base, local_files_only=True)
    config.text_config.vocab_size = len(tokenizer)
    try:
        found = torch.load(tensors_path, "cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{tensors_path} is damaged or no file of weights ({reason}): fetch it again") from None
    plain = to_plain(found, published.get("peft_lora_config", {}), tensors_path)
    if HEAD not in plain:
        raise CheckpointError(f"{tensors_path} has no {HEAD}: is it the right file?")
    network = VideoReward(Qwen2VLModel._from_config(config, dtype=dtype), len(plain[HEAD]))
    fill(network, {name if name == HEAD else f"base.{name}": x for name, x in plain.items()}, tensors_path, dtype=dtype)
    told = published["inference_config"]
    statistics = {name: (float(told[f"{key}_mean"]), float(told[f"{key}_std"])) for name, key in _STATISTICS.items()}

    def tokenize(prompt: str, num_video_tokens: int) -> Sequence[int]:
        content = [{"type": "video"}, {"type": "text", "text": question.replace("{text_prompt}", prompt)}]
        text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        ids: list[int] = tokenizer(text.replace(VIDEO_TOKEN, VIDEO_TOKEN * num_video_tokens, 1))["input_ids"]
        return ids

    return AlignmentJudge(network, tokenize, tokenizer.convert_tokens_to_ids(list(REWARD_TOKENS.values())), statistics)
