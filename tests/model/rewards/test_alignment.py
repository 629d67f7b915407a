"""The judge of pictures on files that stand in for the published ones: a tiny Qwen2-VL with adapters, a question of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.errors import CheckpointError
from model.rewards.alignment import (
    BASE,
    DIRECTORY,
    QUESTION_FILE,
    QUESTION_NAME,
    REWARD_TOKENS,
    VIDEO_TOKEN,
    VideoReward,
    load_alignment_judge,
    patches_of,
    read_question,
    sampled,
    size_of,
)
from model.rewards.judge import Clip

transformers = pytest.importorskip("transformers")
WORDS = ["[UNK]", VIDEO_TOKEN, "rate", "quality", "motion", "text", "a", "man", "woman", "reads", "user", "assistant"]
CHAT = (
    "{% for m in messages %}user {% for c in m['content'] %}"
    "{% if c['type'] == 'video' %}" + VIDEO_TOKEN + "{% else %} {{ c['text'] }}{% endif %}{% endfor %}{% endfor %} assistant"
)
STATISTICS = {"VQ_mean": 1.0, "VQ_std": 2.0, "MQ_mean": -0.5, "MQ_std": 4.0, "TA_mean": 0.25, "TA_std": 0.5}
RANK, ALPHA = 2, 6


def tiny_config() -> Any:
    return transformers.Qwen2VLConfig(
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "bos_token_id": None,
            "eos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        vision_config={"depth": 1, "hidden_size": 16, "embed_dim": 16, "num_heads": 2},
        video_token_id=1,
        bos_token_id=None,
        eos_token_id=None,
    )


def published_name(name: str) -> str:
    """As PEFT and transformers before 4.52 wrote it."""
    bare = name.removeprefix("base.")
    if bare == "rm_head.weight":
        return "base_model.model.rm_head.modules_to_save.default.weight"
    bare = bare.replace("language_model.", "model.")
    return "base_model.model." + bare.replace("q_proj.", "q_proj.base_layer.")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("weights"))


def write_files(root: Path) -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    directory, base = root / DIRECTORY, root / BASE
    (directory / "checkpoint-11352").mkdir(parents=True)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.add_special_tokens({"additional_special_tokens": [VIDEO_TOKEN]})
    fast.chat_template = CHAT
    fast.save_pretrained(base)
    config = tiny_config()
    config.save_pretrained(base)
    config.text_config.vocab_size = len(WORDS) + 3
    torch.manual_seed(0)
    network = VideoReward(transformers.Qwen2VLModel(config), 1)
    tensors = {published_name(name): torch.randn(x.shape) * 0.3 for name, x in network.state_dict().items()}
    tensors["base_model.model.rm_head.original_module.weight"] = torch.zeros(1, 16)
    tensors["base_model.model.lm_head.weight"] = torch.zeros(len(WORDS) + 3, 16)
    for layer in range(2):
        module = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{module}.lora_A.default.weight"] = torch.randn(RANK, 16)
        tensors[f"{module}.lora_B.default.weight"] = torch.randn(16, RANK)
    torch.save(tensors, directory / "checkpoint-11352" / "model.pth")
    told = {"inference_config": STATISTICS, "peft_lora_config": {"lora_r": RANK, "lora_alpha": ALPHA}}
    (directory / "model_config.json").write_text(json.dumps(told))
    quality, motion, text = REWARD_TOKENS.values()
    question = f"rate quality {quality} rate motion {motion} text {{text_prompt}} rate text {text}"
    (directory / QUESTION_FILE).write_text(f"OTHER = 1\n{QUESTION_NAME} = {question!r}\nraise SystemExit('nobody runs this')\n")
    return root


def clip(prompt: str, seed: int = 0) -> Clip:
    frames = torch.randint(256, (50, 90, 160, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    return Clip(frames, 25, torch.zeros(32_000), 16_000, prompt)


def expected(weights: Path, judged: Clip) -> Tensor:
    """By adapters beside the layers that they adapt, from ids that are put together here."""
    tensors = torch.load(weights / DIRECTORY / "checkpoint-11352" / "model.pth", weights_only=True)
    config = tiny_config()
    config.text_config.vocab_size = len(WORDS) + 3
    network = VideoReward(transformers.Qwen2VLModel(config), 1).eval()
    network.load_state_dict({name: tensors[published_name(name)] for name in network.state_dict()})
    for number, layer in enumerate(network.base.language_model.layers):
        module = f"base_model.model.model.layers.{number}.self_attn.q_proj"
        down, up = (tensors[f"{module}.lora_{kind}.default.weight"] for kind in "AB")

        def adapt(_: object, inputs: tuple[Tensor], output: Tensor, down: Tensor = down, up: Tensor = up) -> Tensor:
            return output + inputs[0] @ down.T @ up.T * (ALPHA / RANK)

        layer.self_attn.q_proj.register_forward_hook(adapt)
    patches, grid = patches_of(sampled(judged.frames, 25))
    quality, motion, text = (len(WORDS) + i for i in range(3))
    ids = [*words("user"), *[1] * (len(patches) // 4), *words("rate quality"), quality, *words("rate motion"), motion]
    ids += [*words(f"text {judged.prompt} rate text"), text, *words("assistant")]
    with torch.no_grad():
        return network(torch.tensor(ids), patches, torch.tensor(grid), (quality, motion, text))


def words(line: str) -> list[int]:
    return [WORDS.index(word) for word in line.split()]


def test_answers_are_those_of_the_published_network_standardised(weights: Path) -> None:
    judge = load_alignment_judge(weights, torch.float32)
    clips = [clip("a man reads"), clip("a woman reads a text", seed=1)]
    found = judge(clips)
    assert list(found) == ["visual_quality", "motion_quality", "text_alignment"]
    raw = torch.stack([expected(weights, one) for one in clips])
    for i, (name, kind) in enumerate(zip(found, ("VQ", "MQ", "TA"), strict=True)):
        standard = (raw[:, i] - STATISTICS[f"{kind}_mean"]) / STATISTICS[f"{kind}_std"]
        torch.testing.assert_close(found[name], standard, rtol=1e-3, atol=1e-4)
        assert found[name][0] != found[name][1]


def test_pictures_are_sampled_twice_a_second_and_cut_into_patches_that_are_merged() -> None:
    frames = torch.arange(125, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 336, 336, 3)
    pictures = sampled(frames, 25)
    assert pictures[:, 0, 0, 0].tolist() == [0, 14, 28, 41, 55, 69, 83, 96, 110, 124]
    assert len(sampled(frames[:25], 25)) == 4
    ramp = torch.zeros(2, 336, 336, 3, dtype=torch.uint8)
    ramp[:, 14:28, :14] = 255  # the second row's first patch
    patches, grid = patches_of(ramp)
    assert grid == (1, 24, 24)
    assert patches.shape == (24 * 24, 3 * 2 * 14 * 14)
    bright = patches.mean(dim=1) > 0
    assert bright.nonzero().flatten().tolist() == [2]  # left above, right above, left below
    assert size_of(512, 992) == (308, 616)
    assert size_of(64, 64) == (336, 336)
    assert size_of(336, 448) == (336, 448)


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="avatar-rtc download reward"):
        load_alignment_judge(tmp_path)
    with pytest.raises(CheckpointError, match=r"fetch it from https://raw\.githubusercontent\.com"):
        read_question(tmp_path / QUESTION_FILE)
    (tmp_path / QUESTION_FILE).write_text(f"{QUESTION_NAME} = 'how good is it?'")
    with pytest.raises(CheckpointError, match="fetch it anew"):
        read_question(tmp_path / QUESTION_FILE)
    root = write_files(tmp_path / "published")
    path = root / DIRECTORY / "checkpoint-11352" / "model.pth"
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, "base_model.model.model.embed_tokens.lora_embedding_A.default": torch.zeros(2, 4)}, path)
    with pytest.raises(CheckpointError, match="adapter of another kind"):
        load_alignment_judge(root)
