"""Who sees a session: its viewers, which of them is heard of, and who has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from avatar_rtc.config import ServerConfig
from avatar_rtc.logs import SessionLog
from avatar_rtc.metrics import Metrics
from avatar_rtc.outputs.webrtc import Departure, Host, Viewer
from signaling.dialects.avatar import AvatarDialect
from signaling.dialects.dialect import Dialect
from signaling.service import Rights

MAX_BLIND_S = 0.5
REPLACED_AFTER_S = 0.5
"""A viewer that is silent for so long is taken to be the one that comes back by another connection."""


class Audience:
    """The viewers of one session.

    Args:
        host: the session.
        guarded: awaits a step of closing, by its name, for a while; never raises.
        on_left: told of a viewer that has gone, and why.

    Attributes:
        viewers: those that have not gone, by their ids.
    """

    def __init__(
        self,
        host: Host,
        config: ServerConfig,
        metrics: Metrics,
        log: SessionLog,
        guarded: Callable[[str, Awaitable[None]], Coroutine[Any, Any, None]],
        on_left: Callable[[Viewer, Departure], None],
    ) -> None:
        self.viewers: dict[str, Viewer] = {}
        self._host = host
        self._config = config
        self._metrics = metrics
        self._log = log
        self._guarded = guarded
        self._on_left = on_left
        self._leaving: set[asyncio.Task[None]] = set()
        self._looked_s = host.clock.now()

    @property
    def has_caller(self) -> bool:
        """Whether somebody is there who does not only watch."""
        return any(viewer.rights.is_caller for viewer in self.viewers.values())

    @property
    def is_shown(self) -> bool:
        """Whether the stream is to go on for somebody."""
        return any(viewer.is_shown for viewer in self.viewers.values())

    @property
    def is_told(self) -> bool:
        """Whether events reach somebody."""
        return any(viewer.channels.is_open for viewer in self.viewers.values())

    @property
    def can_come_back(self) -> bool:
        """Whether all of them know how to resume: those with a data channel that speaks our own dialect do."""
        viewers = self.viewers.values()
        return all(viewer.channels.is_open and isinstance(viewer.dialect, AvatarDialect) for viewer in viewers)

    @property
    def unheard_s(self) -> float:
        """How long nothing has come from any of those that are shown the stream; 0 if none is."""
        return min((viewer.silent_s for viewer in self.viewers.values() if viewer.is_shown), default=0.0)

    def join(self, viewer_id: str, rights: Rights, dialect: Dialect, *, after: int, is_resumed: bool) -> Viewer:
        """A new viewer, which has not negotiated yet; arguments as of :class:`avatar_rtc.outputs.webrtc.Viewer`."""
        viewer = Viewer(
            viewer_id,
            self._host,
            self._config,
            self._metrics,
            self._log,
            rights=rights,
            dialect=dialect,
            after=after,
            is_resumed=is_resumed,
        )
        self.viewers[viewer_id] = viewer
        return viewer

    def leave(self, viewer: Viewer, reason: Departure) -> asyncio.Task[None] | None:
        """Hang a viewer up. Returns what does so; None if it has gone already."""
        if self.viewers.pop(viewer.viewer_id, None) is None:
            return None
        self._log.info("viewer %.8s: %s", viewer.viewer_id.rpartition(".")[2], reason)
        self._on_left(viewer, reason)
        closing = asyncio.create_task(self._guarded("viewer", viewer.close()))
        self._leaving.add(closing)
        closing.add_done_callback(self._leaving.discard)
        return closing

    def leave_silent(self, but: Viewer | None = None) -> None:
        """Hang up those that somebody who comes back may have been; ``but`` is the one that has come back."""
        for viewer in list(self.viewers.values()):
            if viewer is not but and viewer.connected_s is not None and viewer.silent_s > REPLACED_AFTER_S:
                self.leave(viewer, "vanished")

    def watch(self) -> None:
        """To be called now and then: hang up who has not connected, or is not heard of any more."""
        now, limits = self._host.clock.now(), self._config.limits
        if now - self._looked_s > MAX_BLIND_S:
            for viewer in self.viewers.values():
                if viewer.connected_s is not None:
                    viewer.heard_s = now  # it was us who stood still; what arrived meanwhile is not read yet
        self._looked_s = now
        for viewer in list(self.viewers.values()):
            if viewer.connected_s is None and now - viewer.born_s > limits.join_timeout_s:
                self.leave(viewer, "join_timeout")
            elif viewer.connected_s is not None and viewer.silent_s > limits.vanish_after_s:
                self.leave(viewer, "vanished")

    async def close(self) -> None:
        """Hang up everybody."""
        for viewer in list(self.viewers.values()):
            self.leave(viewer, "deleted")
        await asyncio.gather(*self._leaving)

    def stats(self) -> dict[str, Any]:
        """Counters of those that are there."""
        viewers = self.viewers.values()
        return {
            "viewers": len(viewers),
            "packets_sent": sum(viewer.num_packets_sent for viewer in viewers),
            "packets_lost": sum(viewer.num_packets_lost for viewer in viewers),
            "rtt_ms": max((viewer.rtt_ms for viewer in viewers if viewer.rtt_ms is not None), default=None),
        }
