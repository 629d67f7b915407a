"""Strict config types of a training run: one YAML file describes one run, ``configs/train/`` has those of the published recipe.

A stage is a loss, a subject is the model that it trains. Which stages there are is said by the types below, each by its ``kind``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator

from model.config import Strict
from model.errors import ConfigError
from model.yaml_text import parse_yaml

RANDOM = "random"
"""In place of a file of weights: none, to try what a run costs."""


class _Typed(str):
    """A value of the command line, where paths count from the working directory."""


def _located(value: Any, info: ValidationInfo) -> Any:
    if value is None or value == RANDOM or not isinstance(value, str | Path):
        return value
    base = Path.cwd() if isinstance(value, _Typed) else (info.context or {}).get("base", Path.cwd())
    return Path(os.path.normpath(base / Path(value).expanduser()))


Place = Annotated[Path, BeforeValidator(_located)]
"""A path that counts from the config's directory, or, typed with ``--set``, from the working directory."""
Pattern = Annotated[str, Field(min_length=1)]
"""A regular expression that is searched for in published names of parameters."""
DType = Literal["float32", "bfloat16"]


class Streams(Strict):
    """A number for each stream."""

    video: float
    audio: float

    @property
    def pair(self) -> tuple[float, float]:
        return self.video, self.audio


class StartsConfig(Strict):
    """Files that the networks begin with, below ``weights``; or ``random``.

    Attributes:
        student: the causal model that is trained.
        teacher: the bidirectional model; also the real score.
        critic: the fake score; begins as the teacher as a rule.
        audio_tower: for a student of another size than its teacher: MOVA's audio tower. The student then takes of this file and
            of ``student`` what fits, and is random where nothing does.
    """

    student: str
    audio_tower: str | None = None
    teacher: str = "Ovi/model.safetensors"
    critic: str = "Ovi/model.safetensors"


class UnwantedConfig(Strict):
    """Prompts of what is not wanted, which guidance leads away from. Defaults are the published ones."""

    video: str = "jitter, bad hands, blur, distortion"
    audio: str = "robotic, muffled, echo, distorted"


class HalloLiveSubject(Strict):
    """The published model, in one of its sizes.

    Attributes:
        model: the student's sizes, such as ``configs/model/hallo_live.yaml``.
        teacher_model: those of teacher and critic; null: the student's.
        weights: directory that ``avatar-rtc download train`` fills.
        starts: which files of it the networks begin with.
        text_features: directory for what the text encoder makes of prompts; what is missing is made when a run begins.
        video_latents: length of a clip; null takes the model's window.
        unwanted: what guidance leads away from.
    """

    kind: Literal["hallo_live"]
    model: Place
    teacher_model: Place | None = None
    weights: Place
    starts: StartsConfig
    text_features: Place
    video_latents: int | None = Field(default=None, gt=0)
    unwanted: UnwantedConfig = UnwantedConfig()


class PocketStarts(Strict):
    """What pocket's networks begin with: a checkpoint, another run, or a file of exported weights; null: random weights.

    Of another run it is the newest exported weights, averaged ones where there are such.

    Attributes:
        student: transformer and text side.
        teacher: a bidirectional one, for stages 1 and 2; also the real score.
        critic: the fake score; begins as the teacher as a rule.
        vae: of a VAE's stage: its encoder is that one's from the first step, so that latents stay what they are; its decoder too
            where it fits.
    """

    student: Place | None = None
    teacher: Place | None = None
    critic: Place | None = None
    vae: Place | None = None


class PocketSubject(Strict):
    """pocket, or a network of its kind.

    Attributes:
        model: its sizes, such as ``configs/model/pocket.yaml``.
        data: directory that ``python -m model.training.prepare`` fills.
        video_encoder, audio_encoder: what makes latents of clips: a run of a VAE's stage, which is waited for until its encoder
            is frozen, or a checkpoint with its encoders beside it. For the flow stage; and for rewards, which need its decoder.
        starts: what the networks begin with.
        blocks: of a sequence.
        timesteps: levels of the passes that a block takes, in place of the model's.
    """

    kind: Literal["pocket"]
    model: Place
    data: Place
    video_encoder: Place | None = None
    audio_encoder: Place | None = None
    starts: PocketStarts = PocketStarts()
    blocks: int = Field(default=12, gt=1)
    timesteps: tuple[float, ...] | None = None


class SamplingConfig(Strict):
    """How the teacher makes trajectories: Euler steps with guidance. Defaults are the published values.

    Attributes:
        skip_layer: left out of the pass that sees what is not wanted; null leaves none out.
    """

    steps: int = Field(default=49, gt=0)
    guidance: Streams = Streams(video=4.0, audio=3.0)
    skip_layer: int | None = Field(default=11, gt=0)


class ODEInitStage(Strict):
    """Stage 1: the causal student learns to jump to the end of a teacher's trajectories.

    Attributes:
        trajectories: what ``avatar-rtc train sample-ode`` writes, or ``pack-ode`` has made of it.
        weights: of the streams' losses.
        sampling: for ``sample-ode``.
    """

    kind: Literal["ode_init"]
    trajectories: Place
    weights: Streams = Streams(video=0.85, audio=0.15)
    sampling: SamplingConfig = SamplingConfig()


class RewardsConfig(Strict):
    """What a rollout is worth weighs its loss (HP-DMD).

    Attributes:
        kinds: which judges: ``sync`` of lips, ``audiobox`` of sound, ``videoalign`` of pictures.
        beta: how strongly they count.
        offload: judges are on the device only while they judge.
        weights: directory that ``avatar-rtc download reward`` fills; null: the subject's own, which pocket has none of.
    """

    kinds: tuple[Literal["videoalign", "audiobox", "sync"], ...] = Field(default=("videoalign", "audiobox", "sync"), min_length=1)
    beta: float = Field(default=2.0, gt=0)
    offload: bool = True
    weights: Place | None = None


class DMDStage(Strict):
    """Stage 2: distribution matching on the student's own rollouts.

    Attributes:
        prompts: table with a column ``text_prompt``; null for pocket, whose prompts are those of its clips.
        guidance: of the real score.
        weights: of the streams' losses; 0 leaves a stream out.
        decoupled: take guidance at a noise level of its own, below the exit's.
        detached: let no gradient reach earlier blocks; otherwise it goes through them as in the published trainer.
        rewards: null trains without.
    """

    kind: Literal["dmd"]
    prompts: Place | None = None
    guidance: Streams
    weights: Streams = Streams(video=0.85, audio=0.15)
    decoupled: bool = False
    detached: bool = False
    rewards: RewardsConfig | None = None


Share = Annotated[float, Field(ge=0, le=1)]


class FlowStage(Strict):
    """pocket's transformer and text side, jointly, by flow matching on latents of clips.

    Attributes:
        causal: under block-causal masks, each block at a noise level of its own, as it is served; otherwise everything sees
            everything, at one level: a teacher.
        weights: of the streams' losses; ``duration_weight`` and ``label_weight`` of the helping ones.
        look_weight: of what a reader of latents sees in the first block's clean prediction, beside what its caption asks for.
        clean_share: of blocks that are history and not learned.
        first_clean_share: the same of a sequence's first block, which decides who is seen.
        served_share: of levels that lie near those of the model's passes.
        caption_dropout: share of samples without a caption, so that guidance is possible.
        history_noise: history is seen with up to so much noise, because when it serves it is the network's own.
    """

    kind: Literal["flow"]
    causal: bool = True
    weights: Streams = Streams(video=1.0, audio=1.0)
    duration_weight: float = Field(default=0.5, ge=0)
    label_weight: float = Field(default=0.05, ge=0)
    look_weight: float = Field(default=0.1, ge=0)
    clean_share: Share = 0.4
    first_clean_share: Share = 0.5
    served_share: Share = 0.5
    caption_dropout: Share = 0.08
    history_noise: Share = 0.06


class VAEStage(Strict):
    """What the stages of both VAEs share.

    Attributes:
        encoder_minutes: the encoder learns so long, over all pieces. Then it is frozen, and stages that wait for it may begin.
        keep_encoder: one that ``subject.starts.vae`` gives is frozen from the first step, so that latents stay what they are; if
            not, it goes on learning, and a transformer has to follow.
        latent_noise: decoders learn from latents with up to so much noise afterwards, as a transformer's output has it.
        frozen_rate: share of the learning rates from then on.
    """

    encoder_minutes: float = Field(ge=0)
    keep_encoder: bool = True
    latent_noise: float = Field(ge=0)
    frozen_rate: float = Field(default=0.5, gt=0)


class VideoVAEStage(VAEStage):
    """pocket's video VAE: L1 on luma, chroma and luma gradients.

    Attributes:
        clips: clip set in the data directory; of it the first ``max_clips`` are used.
        latents: a sample's length.
        mouth_weight, eye_weight: how much more these count than the rest.
        face_weight: the same of all around both, on top: thin glasses, wrinkles and moustaches are there.
        chroma_weight: of chroma beside luma: an iris is few pixels of little luma, and its colour gets lost.
        eye_chroma_weight: how much more chroma counts around the eyes, on top.
        motion_weight: of what moves, while the encoder learns; ``motion_weight_after`` afterwards: by then the latents tell what
            moves, and sharpness counts for more.
        adversarial_weight: of critics of pieces of pictures, once the encoder is frozen; 0: there is nothing to be heard of them.
        features_weight: of the distance between what critics see in decoded and in true pictures, where they are heard.
    """

    kind: Literal["video_vae"]
    clips: str = "first"
    max_clips: int = Field(default=800, gt=0)
    latents: int = Field(default=3, gt=0)
    latent_noise: float = Field(default=0.08, ge=0)
    mouth_weight: float = Field(default=4.0, ge=0)
    eye_weight: float = Field(default=4.0, ge=0)
    face_weight: float = Field(default=1.0, ge=0)
    chroma_weight: float = Field(default=3.0, gt=0)
    eye_chroma_weight: float = Field(default=0.0, ge=0)
    motion_weight: float = Field(default=30.0, ge=0)
    motion_weight_after: float = Field(default=10.0, ge=0)
    adversarial_weight: float = Field(default=0.0, ge=0)
    features_weight: float = Field(default=1.0, ge=0)


class AudioVAEStage(VAEStage):
    """pocket's audio VAE and vocoder: spectral losses and pitch, and critics once the encoder is frozen.

    Attributes:
        latents: a sample's length; of it the first ``settle_latents`` are not judged, whose past the decoder has not seen.
    """

    kind: Literal["audio_vae"]
    latents: int = Field(default=32, gt=0)
    settle_latents: int = Field(default=5, ge=0)
    latent_noise: float = Field(default=0.15, ge=0)


class DurationsStage(Strict):
    """pocket's duration predictor, learned anew from many more sentences than were ever rendered.

    Attributes:
        examples: JSON lines of what the teachers said; made when a run begins, if it is not there.
        sentences: asked of hibari; ``kokoro_sentences`` of Kokoro, for each of its voices.
        kokoro_model, kokoro_voices: Kokoro's ONNX file and its directory of styles; null: what indices in ``corpus`` say.
        validation_share: of sentences, told by their phonemes, that are judged by and not learned from.
    """

    kind: Literal["durations"]
    examples: Place
    sentences: int = Field(default=12_000, gt=0)
    kokoro_model: Place | None = None
    kokoro_voices: Place | None = None
    kokoro_sentences: int = Field(default=2_000, gt=0)
    corpus: Place | None = None
    validation_share: float = Field(default=1 / 12, gt=0, lt=1)

    @model_validator(mode="after")
    def _kokoro_is_whole(self) -> DurationsStage:
        if (self.kokoro_model is None) != (self.kokoro_voices is None):
            raise ValueError("kokoro_model and kokoro_voices go together")
        return self


class AverageConfig(Strict):
    """Moving average of weights.

    Attributes:
        from_step: begins with the weights of this step.
        warm_up: average faster at first: decay is at most (1 + n) / (10 + n) at update n.
    """

    decay: float = Field(gt=0, lt=1)
    from_step: int = Field(default=0, ge=0)
    warm_up: bool = False


class LearnerConfig(Strict):
    """How one network learns: AdamW.

    Attributes:
        learning_rates: by pattern of published names; the first that fits a parameter counts, and one has to.
        trainable: what learns; all if null. The rest stays as it is.
        frozen: what does not although it is trainable, such as ``^video_model`` for an audio-only continuation.
        decays: whether weight decay is for ``all`` parameters, or for ``matrices`` alone.
        clip_norm: largest norm of all gradients together.
        every: it learns in each step that is a multiple of this, 0 included.
        average: null keeps none.
    """

    learning_rates: dict[Pattern, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    trainable: Pattern | None = None
    frozen: Pattern | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.01, ge=0)
    decays: Literal["all", "matrices"] = "all"
    eps: float = Field(default=1e-8, gt=0)
    clip_norm: float = Field(default=10.0, gt=0)
    every: int = Field(default=1, gt=0)
    average: AverageConfig | None = None

    @field_validator("betas")
    @classmethod
    def _below_one(cls, betas: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"must be at least 0 and below 1, got {list(betas)}")
        return betas

    @model_validator(mode="after")
    def _compile(self) -> LearnerConfig:
        for pattern in (*self.learning_rates, self.trainable, self.frozen):
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return self


class ScheduleConfig(Strict):
    """Learning rates over steps: rising over the first, constant, falling to a twentieth over the last."""

    warmup_steps: int = Field(default=0, ge=0)
    cooldown_steps: int = Field(default=0, ge=0)


class PrecisionConfig(Strict):
    """Numbers.

    Attributes:
        master: weights that train, their moments; bfloat16 halves memory, but swallows steps below 0.4 % of a weight.
        compute: products; frozen weights of hallo-live are kept in it, and exported ones if saving.weights is null.
        reduce: gradients while they are summed over processes.
    """

    master: DType = "float32"
    compute: DType = "bfloat16"
    reduce: DType = "float32"


class SavingConfig(Strict):
    """Checkpoints. One is also written when a run stops.

    Attributes:
        every_steps: also exports weights for use.
        every_minutes: whatever ends a machine then costs no more; null counts steps alone.
        keep: so many newest checkpoints stay. Exported weights all do.
        weights: type of exported weights; null: that of products.
    """

    every_steps: int = Field(default=500, gt=0)
    every_minutes: float | None = Field(default=None, gt=0)
    keep: int = Field(default=2, gt=0)
    weights: DType | None = None


class TrainConfig(Strict):
    """A whole run.

    Attributes:
        batch: samples of one process and one part of a step.
        accumulate: parts of a step, whose gradients are averaged.
        sharding: ``full`` over all processes; ``hybrid`` over those of one machine, with a copy a machine.
        recompute: keep activations of layers' ends only.
        record: replay a loss and its gradients as a CUDA graph, for networks so small that launches bind them; where networks are
            not spread over processes.
        compile: layers with torch.compile, on a GPU; pocket's.
        log_every: steps.
    """

    subject: Annotated[HalloLiveSubject | PocketSubject, Field(discriminator="kind")]
    stage: Annotated[
        ODEInitStage | DMDStage | FlowStage | VideoVAEStage | AudioVAEStage | DurationsStage, Field(discriminator="kind")
    ]
    learners: dict[str, LearnerConfig]
    max_steps: int = Field(gt=0)
    batch: int = Field(default=1, gt=0)
    accumulate: int = Field(default=1, gt=0)
    seed: int = Field(default=103, ge=0)
    schedule: ScheduleConfig = ScheduleConfig()
    precision: PrecisionConfig = PrecisionConfig()
    sharding: Literal["full", "hybrid"] = "full"
    recompute: bool = True
    record: bool = False
    compile: bool = False
    saving: SavingConfig = SavingConfig()
    log_every: int = Field(default=1, gt=0)

    @model_validator(mode="after")
    def _learners_fit(self) -> TrainConfig:
        stage, pocket = self.stage, isinstance(self.subject, PocketSubject)
        wanted = LEARNERS[stage.kind]
        if set(self.learners) != wanted:
            raise ValueError(f"learners of a {stage.kind} stage are {sorted(wanted)}, got {sorted(self.learners)}")
        if not pocket and not isinstance(stage, ODEInitStage | DMDStage):
            raise ValueError(f"a {stage.kind} stage is one of pocket's: hallo_live has ode_init and dmd")
        if isinstance(stage, DMDStage):
            if pocket and stage.prompts:
                raise ValueError("pocket's prompts are those of its clips: leave out stage.prompts")
            if pocket and stage.rewards is not None and stage.rewards.weights is None:
                raise ValueError("stage.rewards.weights is missing: the directory that 'avatar-rtc download reward' fills")
            if not pocket and stage.prompts is None:
                raise ValueError("stage.prompts is missing: a table with a column text_prompt")
        if self.record and isinstance(self.stage, DMDStage) and self.stage.rewards is not None:
            raise ValueError("a loss that judges weigh cannot be recorded: leave out record or stage.rewards")
        return self


LEARNERS = {
    "ode_init": {"student"},
    "dmd": {"generator", "critic"},
    "flow": {"student"},
    "video_vae": {"vae", "critics"},
    "audio_vae": {"vae", "critics"},
    "durations": {"predictor"},
}
"""By kind of stage."""
MAY_CHANGE = (
    *("max_steps", "batch", "accumulate", "schedule", "saving", "log_every"),
    *("recompute", "record", "compile", "sharding"),
)
"""Keys that a run may be continued with in another value than it began with."""


def load_train_config(path: Path, assignments: Sequence[str] = ()) -> TrainConfig:
    """Read a run's config.

    Args:
        assignments: ``key=value`` each, ``key`` with dots between sections, ``value`` as YAML: they replace what the file says.

    Raises:
        ConfigError: no file, no YAML, or a key that is unknown, missing or out of range; the message names all of them.
    """
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: give a config of configs/train, or one of your own") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(raw).__name__}")
    for assignment in assignments:
        _assign(raw, assignment)
    try:
        return TrainConfig.model_validate(raw, context={"base": path.parent.resolve()})
    except ValidationError as error:
        problems = "\n  ".join(_problem(e["loc"], e["msg"], e["type"]) for e in error.errors())
        raise ConfigError(f"{path}:\n  {problems}") from None


def _assign(raw: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {assignment}: write key=value, such as --set learners.generator.clip_norm=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML: {error}") from None
    section, *rest = raw, *key.split(".")
    for part in rest[:-1]:
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ConfigError(f"--set {assignment}: {part} is no section")
    section[rest[-1]] = _Typed(value) if isinstance(value, str) else value


def _problem(location: tuple[int | str, ...], message: str, kind: str) -> str:
    # Types that are told apart by their kind put it into the place.
    where = ".".join(str(part) for part in location if part not in {*LEARNERS, "hallo_live", "pocket"})
    if kind == "extra_forbidden":
        return f"{where}: unknown key; remove or correct it"
    return f"{where}: {message.removeprefix('Value error, ').lower()}" if where else message.removeprefix("Value error, ")


def differences(began: TrainConfig, now: TrainConfig) -> list[str]:
    """Keys by which a run cannot be continued, with both values."""

    def flat(value: Any, prefix: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}.{key}" if prefix else key).items()}

    old, new = (flat(c.model_dump(mode="json", exclude=set(MAY_CHANGE))) for c in (began, now))
    return [f"{key}: {old.get(key)} then, {new.get(key)} now" for key in sorted(old | new) if old.get(key) != new.get(key)]
