"""Errors that a user can cause and can mend. Each message says what was wrong and what to do."""

from __future__ import annotations


class ModelError(ValueError):
    """Base of all errors below. ``code`` is stable and safe to show to clients."""

    code = "model_error"


class ConfigError(ModelError):
    """A config file has an unknown key, a missing key or a value out of range."""

    code = "bad_config"


class CheckpointError(ModelError):
    """A checkpoint is missing, damaged, or does not fit its config."""

    code = "bad_checkpoint"


class PromptError(ModelError):
    """A prompt breaks the grammar ``scene <S>line<E> <AUDCAP>voice<ENDAUDCAP>`` or is too long."""

    code = "bad_prompt"


class UnspeakableTextError(PromptError):
    """A line holds nothing that can be spoken: it is empty, or written in a script without a pronunciation."""

    code = "unspeakable_text"


class TrainingError(ModelError):
    """A run cannot go on: its numbers are no longer finite, or its data is not what the stage needs."""

    code = "training_failed"


class PromptTableError(ModelError):
    """A file of prompts, or the list of a directory's films, cannot be used."""

    code = "bad_prompt_table"
