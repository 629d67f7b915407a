"""The transformer's stage: what it learns from, and that its losses reach everything that learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from model.data.face import Look
from model.liveliness import CONTROLS
from model.text.tokenizer import SEPARATOR
from model.training.clips import ClipTexts
from model.training.config import FlowStage
from model.training.run import Run
from model.training.stages.flow import FlowMatching, noise_levels
from tests.model.support import randomise
from tests.support.pocket_runs import BLOCKS, begin, pocket_config, write_pocket


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pocket(tmp_path_factory.mktemp("pocket"))


def stage_of(run: Run) -> FlowMatching:
    assert isinstance(run.stage, FlowMatching)
    return run.stage


@pytest.mark.parametrize("name", ["base", "teacher"])
def test_every_weight_learns(directory: Path, tmp_path: Path, name: str) -> None:
    raw = pocket_config()
    raw["dit"] |= {"output": "clean", "grid": [2, 2], "control_channels": 4 * len(CONTROLS)}  # type: ignore[operator]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(raw))
    values = f"subject.model={tmp_path}/model.yaml", "subject.starts.student=null", "stage.caption_dropout=0"
    run = begin(name, directory, tmp_path, *values)
    (learner,) = run.learners
    randomise(learner.module)
    loss = run.stage.loss("student", run._draw(learner, 0))
    assert set(loss.figures) == {"video", "audio", "duration", "labels", "reader", "look"}
    weights = {"video": 1, "audio": 1, "duration": 0.5, "labels": 0.05, "reader": 1, "look": 0.1}
    torch.testing.assert_close(loss.total, sum(weights[name] * x for name, x in loss.figures.items()))
    loss.total.backward()
    for key, parameter in learner.module.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().max() > 0 or parameter.numel() == 1, key


def test_a_reader_learns_from_clean_latents_and_judges_what_captions_say(directory: Path, tmp_path: Path) -> None:
    run = begin("base", directory, tmp_path, "stage.caption_dropout=0", "stage.first_clean_share=0")
    stage, data = stage_of(run), run._draw(run.learners[0], 0).tensors
    (learner,) = run.learners
    randomise(learner.module)
    reader = learner.module.get_submodule("reader")
    others = [p for name, p in learner.module.named_parameters() if name.startswith("dit.")]

    def reached(name: str) -> tuple[bool, bool]:
        """Whether a part of the loss has gradients in the reader, and in the transformer."""
        learner.module.zero_grad()
        part = stage.parts(data)[name]
        if part.requires_grad:
            part.backward()
        grads = [any(p.grad is not None and bool(p.grad.any()) for p in some) for some in (list(reader.parameters()), others)]
        return grads[0], grads[1]

    assert reached("reader") == (True, False)
    assert reached("look") == (False, True)
    before = stage.parts(data)["look"]
    data["labels"] = torch.where(data["asked"], data["labels"], torch.zeros_like(data["labels"]))
    torch.testing.assert_close(stage.parts(data)["look"], before, msg="what a caption does not say is not judged")
    data["level"][:, 0] = 0
    assert stage.parts(data)["look"] == 0, "a first block that is history is not judged"


def test_captions_say_what_they_say(directory: Path, tmp_path: Path) -> None:
    texts: ClipTexts = stage_of(begin("base", directory, tmp_path))._subject.texts
    names = list(Look.cardinalities())
    assert texts.asked.shape == (*texts.caption.shape[:2], len(names))
    assert texts.asked[:, :, names.index("presentation")].all(), "who is seen is always named"
    assert not texts.asked[:, :, names.index("eye_colour")].all()


def test_a_teacher_sees_what_comes_and_the_base_does_not(directory: Path, tmp_path: Path) -> None:
    """What is changed in the last block changes the first one's prediction, and so the loss where only that one counts."""
    changes = {}
    for name in ("base", "teacher"):
        run = begin(name, directory, tmp_path / name)
        stage, data = stage_of(run), run._draw(run.learners[0], 0).tensors
        data["level"] = torch.full_like(data["level"], 0.7)
        data["weight"][:, stage._subject.block.video :] = 0
        with torch.no_grad():
            before = stage.parts(data)["video"]
            data["video"][:, :, -1] += 1
            changes[name] = float((stage.parts(data)["video"] - before).abs())
    assert changes["base"] < 1e-5
    assert changes["teacher"] > 1e-4


def test_sequences_lie_where_they_say(directory: Path, tmp_path: Path) -> None:
    """The base: a clip's first block, then consecutive ones. The teacher: a stream that begins in the middle of a clip."""
    base, teacher = (begin(name, directory, tmp_path / name, "batch=40") for name in ("base", "teacher"))
    drawn = base._draw(base.learners[0], 0).tensors
    blocks = drawn["blocks"]
    assert (blocks[:, 0] == 0).all()
    assert set(blocks[:, 1].tolist()) == {1, 2, 3}
    assert (blocks[:, 2:] - blocks[:, 1:-1] == 1).all()
    texts: ClipTexts = stage_of(base)._subject.texts
    latents = stage_of(base)._latents
    of_clip = [latents.video[i].float() for i in range(texts.num_clips)]
    for row in range(40):
        places = torch.cat([torch.arange(2) + 2 * b for b in blocks[row].tolist()])
        assert any(torch.equal(drawn["video"][row].transpose(0, 1), clip[places]) for clip in of_clip)
    drawn = teacher._draw(teacher.learners[0], 0).tensors
    assert (drawn["blocks"] == torch.arange(BLOCKS)).all()
    assert not drawn["text_mask"][drawn["times"] < -0.5].any()
    nobody = (drawn["caption"][:, 0] == SEPARATOR) & (drawn["caption"][:, 1:] == 0).all(1)
    assert torch.equal(nobody, ~drawn["named"])
    assert (drawn["level"] == drawn["level"][:, :1]).all()


def test_levels_that_are_served_come_up_most_and_the_last_block_is_always_learned() -> None:
    dice = torch.Generator().manual_seed(0)
    chance, normal = torch.rand(512, 12, 6, generator=dice), torch.randn(512, 12, generator=dice)
    level = noise_levels(chance, normal, (1.0, 0.25), FlowStage(kind="flow"))
    assert level.min() == 0
    assert level.max() == 1
    assert (level[:, -1] > 0).all()
    assert 0.3 < (level[:, 1:-1] == 0).float().mean() < 0.5
    assert 0.4 < (level[:, 0] == 0).float().mean() < 0.6
    learned = level[level > 0]
    near = ((learned >= 0.7) | ((learned > 0.175) & (learned < 0.325))).float().mean()
    assert near > 0.6, "with none favoured, 0.4"
