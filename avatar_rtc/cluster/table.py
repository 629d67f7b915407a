"""What a front door knows of the nodes, and in which order it asks them for a seat: values, without I/O and without Ray."""

from __future__ import annotations

import math
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FRESH_S = 2.5
"""A node that has said nothing for so long is not asked for a seat."""
MAX_GONE = 1024
"""So many nodes are remembered after their end."""


@dataclass(frozen=True)
class NodeState:
    """What a node says of itself.

    Attributes:
        node: its name, which is another one each time it starts: no id of a life before leads to it.
        address: where front doors find it, such as ``http://10.0.0.5:41234``; empty until it serves.
        key: what they say there.
        seats: of which ``free`` can be had now; ``waiting`` callers wait for one.
        rtf_p95: real-time factor of its engine's latest blocks; 0 if none was measured.
        draining: it takes no more calls.
    """

    node: str
    address: str
    key: str
    seats: int = 0
    free: int = 0
    waiting: int = 0
    rtf_p95: float = 0.0
    draining: bool = False


@dataclass
class _Known:
    state: NodeState
    heard_s: float
    promised: int = 0
    """Seats that this door was given since, or has asked for."""

    @property
    def free(self) -> int:
        return self.state.free - self.promised


class NodeTable:
    """The nodes that serve.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()

    def heard(self, state: NodeState) -> None:
        """A node has said how it is."""
        if state.address:
            self._known[state.node] = _Known(state, self._clock())
            self._gone.pop(state.node, None)

    def gone(self, node: str) -> None:
        """A node has ended."""
        self._known.pop(node, None)
        self._gone[node] = None
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)

    def is_gone(self, node: str) -> bool:
        """Whether a node was there and has ended. One that neither is nor was may only just have begun, or this door may."""
        return node in self._gone

    def find(self, node: str) -> NodeState | None:
        """The node of that name. One that is silent is found until it is known to have ended: it may be only slow."""
        known = self._known.get(node)
        return None if known is None else known.state

    def promise(self, node: str) -> None:
        """A seat of it is asked for: until it is heard of again there is one less."""
        if node in self._known:
            self._known[node].promised += 1

    @property
    def fresh(self) -> list[NodeState]:
        """Those that were heard of lately, by name."""
        return [known.state for _, known in sorted(self._fresh().items())]

    def to_ask(self, held_at: str | None = None) -> list[NodeState]:
        """Whom to ask for a seat, one after the other. Those with free seats come first: by how large a share of theirs is free,
        then by how fast they are. Then the one at which a caller waits best: that of its ticket, else where fewest wait.

        Args:
            held_at: the node at which the caller has a place in line.
        """
        open_ = [known for _, known in sorted(self._fresh().items()) if not known.state.draining]
        free = [known for known in open_ if known.free > 0]
        free.sort(key=lambda known: (-known.free / max(1, known.state.seats), known.state.rtf_p95))
        asked = [known.state for known in free]
        full = [known.state for known in open_ if known.free <= 0] or asked
        if full:
            asked.append(min(full, key=lambda state: (state.node != held_at, state.waiting / max(1, state.seats))))
        return asked

    def num_free_beside(self, name: str) -> int:
        """Free seats at all other nodes than that of a machine."""
        others = [s for s in self.fresh if s.node.rpartition("-")[0] != name and not s.draining]
        return sum(state.free for state in others)

    def num_wanted(self) -> int:
        """So many nodes would have a seat for everybody who is there or waits."""
        fresh = self.fresh
        waiting = sum(state.waiting for state in fresh)
        seats = statistics.median([max(1, state.seats) for state in fresh]) if fresh else 1
        return len(fresh) + math.ceil(waiting / seats)

    def _fresh(self) -> dict[str, _Known]:
        now_s = self._clock()
        return {node: known for node, known in self._known.items() if now_s - known.heard_s <= FRESH_S}
