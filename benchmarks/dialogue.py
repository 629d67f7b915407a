"""What a caller of the benchmarks types."""

from __future__ import annotations

from model.chunk import AVChunk

LINES = (
    "Hello, nice to meet you.",
    "It is twenty past nine, and the coffee is ready.",
    "The train to the coast leaves in a quarter of an hour.",
    "What would you like to know?",
)


class Dialogue:
    """A line, then as much listening as it was speaking, then the next line: half of the time is speech.

    Args:
        first_line: callers that begin with different lines are not in step.
    """

    def __init__(self, first_line: int = 0) -> None:
        self._num_lines = first_line
        self._is_pending = False
        self._owed_s = 0.0

    def next_line(self, chunk: AVChunk | None) -> str | None:
        """What is typed after this chunk, if anything; None stands for the time before the first chunk."""
        if chunk is not None:
            self._owed_s += chunk.duration_s if chunk.speaking else -chunk.duration_s
            self._is_pending = self._is_pending and all(mark.kind != "end" for mark in chunk.marks)
        if self._is_pending or self._owed_s > 0:
            return None
        self._is_pending = True
        self._num_lines += 1
        return LINES[(self._num_lines - 1) % len(LINES)]
