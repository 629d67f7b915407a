"""Lines that the engine was given and that were not heard to their end, and how long each waits so that it plays through.

An engine that is slower than real time makes a line more slowly than it is played. It may run dry before a line or behind it,
where the face listens and goes on to move, but not in the middle of one: so a line waits, at a gate just before its voice, until
what is there lasts until the rest has come. How long a line will be the engine says when it takes it; how fast it is, its latest
blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

from avatar_rtc.media.buffer import Gate, PlayBuffer
from avatar_rtc.media.pull_policy import PullPolicy
from model.chunk import AVChunk

GATE_LEAD_FRAMES = 2
"""A line that waits does so from this long before its voice: lips part first."""


@dataclass
class _Line:
    """A line on its way.

    Attributes:
        length_s: from its first voiced moment to its last, as the engine says.
        made_s: what of it has come in chunks; None before the first one.
        is_made: whether its end has come.
        gate: where it waits.
    """

    length_s: float
    made_s: float | None = None
    is_made: bool = False
    gate: Gate | None = None


class Lines:
    """The account of one stream. It puts chunks into the buffer, with gates where something has to wait."""

    def __init__(self, buffer: PlayBuffer, policy: PullPolicy) -> None:
        self._buffer = buffer
        self._policy = policy
        self._lines: dict[str, _Line] = {}

    def push(self, line_id: str, length_s: float) -> None:
        """The engine has taken a line, behind all others."""
        self._lines[line_id] = _Line(length_s)
        self._policy.on_line()

    def forget(self, line_id: str) -> None:
        """It was heard to its end, or is not to be heard any more; idempotent."""
        self._lines.pop(line_id, None)

    def put(self, chunk: AVChunk, *, muted: bool = False) -> None:
        """Append a chunk to the buffer; see :meth:`avatar_rtc.media.buffer.PlayBuffer.put`."""
        self._buffer.put(chunk, muted=muted, gates=self._gates(chunk))
        for line in self._lines.values():
            if line.gate is not None:
                line.gate.needed_s = self._policy.needed_s(self._left_s(line))

    def hasten(self, behind_s: float) -> None:
        """While a line is made before which nothing is said, leave out what the face would only listen for.

        Args:
            behind_s: what is due and was not taken.
        """
        line = next(iter(self._lines.values()), None)
        if line is not None and line.made_s is None and not self._policy.is_behind(line.length_s):
            self._buffer.shorten(behind_s + self._policy.hurried_s)

    def spare_s(self) -> float:
        """How long from now the next chunk is asked for; at 0 or below, now. What a line lacks is made without a rest."""
        wanted_s = 0.0
        line = next((line for line in self._lines.values() if not line.is_made), None)
        if line is not None and (needed_s := self._policy.needed_s(self._left_s(line))):
            behind_s = self._behind_s(line)
            wanted_s = needed_s + (0.0 if behind_s is None else self._buffer.buffered_s - behind_s)
        return self._policy.spare_s(self._buffer.buffered_s - wanted_s)

    def wait_s(self) -> float | None:
        """In how long about the next line begins to be heard; None where none waits for an engine that is behind."""
        line = next(iter(self._lines.values()), None)
        if line is None or not self._policy.is_behind(line.length_s):
            return None
        behind_s = self._behind_s(line)
        if line.made_s is not None and behind_s is None:
            return None  # its gate was passed
        before_s = self._buffer.buffered_s - (behind_s or 0.0)
        return max(before_s, self._policy.wait_s(self._left_s(line), behind_s or 0.0, started=line.made_s is not None))

    @property
    def is_waiting(self) -> bool:
        """Whether the next line stands at its gate, or is not there."""
        line = next(iter(self._lines.values()), None)
        return line is not None and (line.made_s is None or self._behind_s(line) is not None)

    def _gates(self, chunk: AVChunk) -> list[tuple[int, Gate]]:
        """Book what of which line is in this chunk. Returns the frames of it before which playing waits: before a line, and in
        the middle of one if the buffer ran dry there after all, so that it does so once."""
        gates: list[tuple[int, Gate]] = []
        under_way = next((line for line in self._lines.values() if line.made_s is not None and not line.is_made), None)
        if under_way is not None and under_way.made_s is not None:
            under_way.made_s += chunk.duration_s
            if self._buffer.is_dry:
                under_way.gate = Gate(0.0)
                gates.append((0, under_way.gate))
        first = 0  # a gate lies behind the end of the line before
        for mark in chunk.marks:
            line = self._lines.get(mark.reply_id)
            if line is None:
                continue
            frame = mark.start_sample * chunk.fps // chunk.sample_rate_hz
            if mark.kind == "start":
                line.made_s = chunk.duration_s - mark.start_sample / chunk.sample_rate_hz
                if self._policy.is_behind(line.length_s):
                    line.gate = Gate(0.0)
                    gates.append((max(first, frame - GATE_LEAD_FRAMES), line.gate))
            elif mark.kind == "end":
                line.is_made = True
                first = min(frame + 1, len(chunk.frames))
        return gates

    def _left_s(self, line: _Line) -> float:
        """What of a line is still to come from the engine. Its length may have been a guess."""
        return 0.0 if line.is_made else max(line.length_s - (line.made_s or 0.0), self._buffer.info.chunk_duration_s)

    def _behind_s(self, line: _Line) -> float | None:
        return None if line.gate is None else self._buffer.buffered_behind_s(line.gate)
