"""What the engine asks of a model: weights shared by all, one stream a speaker, work in small steps. Never imports torch."""

from __future__ import annotations

from typing import Protocol

from model.chunk import AVChunk, StreamInfo, StreamSettings


class Stream(Protocol):
    """One speaker's run of the model. Never ends by itself: with nothing to say it listens."""

    @property
    def stage(self) -> str:
        """What the next ``step`` will work at: ``text``, ``dit``, ``vae`` or ``audio``. Its time is booked under this name."""

    def push(self, reply_id: str, text: str, *, last: bool = True) -> float:
        """Append a line, or a piece of one; ``last`` closes the reply.

        Returns:
            How many seconds it will be heard for, from its first voiced moment to its last, as well as the model knows by now.

        Raises:
            model.errors.PromptError: the text is empty, too long, or cannot be pronounced. Nothing has changed.
        """

    def update(self, settings: StreamSettings) -> None:
        """Change look and voice from the next block on."""

    def cancel(self) -> None:
        """Forget every line that is not yet in a chunk, and begin the block in work again. No later chunk sounds of them."""

    def step(self, deadline_s: float | None = None) -> AVChunk | None:
        """One unit of work, some 10 to 60 ms, so that others get their turn and a cancel is heard soon.

        Args:
            deadline_s: ``time.monotonic()`` at which all chunks before will have been played; None if chunks are wanted as fast
                as they can be made.

        Returns:
            The chunk when this step finished a block, else None.
        """

    @property
    def due_s(self) -> float:
        """``time.monotonic()`` from which on :meth:`work` is wanted although no chunk is asked for; inf if all waits for that."""

    def work(self) -> None:
        """A step at chunks that nobody has asked for yet. It makes none."""

    def close(self) -> None:
        """Free the stream's state."""


class Model(Protocol):
    """Weights, loaded once. Lives inside the engine process only."""

    info: StreamInfo
    warm_up_chunks: int
    """After so many chunks of a stream whatever is done once has been done, and one block more: it shows the model's pace."""

    def open(self, settings: StreamSettings) -> Stream:
        """A new stream in the state of a face that listens."""
