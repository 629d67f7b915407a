"""What HTTP needs of the service behind it. The service imports this; never the other way round."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from signaling.ice import IceFragment, IceServer
from signaling.messages import ClientEvent


@dataclass(frozen=True)
class Answer:
    """A session that was created.

    Attributes:
        session_id: 128 random bits, part of ``Location``.
        etag: names the ICE session, without quotes.
        sdp: the answer, with all candidates of the server.
    """

    session_id: str
    etag: str
    sdp: str


class SessionService(Protocol):
    """Every method raises ``signaling.errors.SignalingError`` where it cannot do what was asked."""

    @property
    def ice_servers(self) -> tuple[IceServer, ...]:
        """What clients are told to use."""

    async def create(self, offer: str, *, avatar: str | None, voice: str | None) -> Answer:
        """Take a seat and answer the offer."""

    async def trickle(self, session_id: str, etags: Collection[str], fragment: IceFragment) -> None:
        """Candidates of the client.

        Args:
            etags: one of them must be that of the answer, or ``*``, for whatever there is: a session has one ICE session only.
        """

    async def end(self, session_id: str) -> None:
        """End a session; returns when its seat is free."""

    async def handle(self, session_id: str, event: ClientEvent) -> None:
        """The same as the event on the data channel. Raises ``signaling.messages.EventError``."""

    async def stats(self, session_id: str) -> dict[str, Any]:
        """Counters of one session."""

    def avatars(self) -> dict[str, Any]:
        """The presets: looks and voices."""

    def models(self) -> dict[str, Any]:
        """What is served."""

    def not_ready(self) -> list[str]:
        """Reasons why no session can start now; empty when ready."""

    def speed(self) -> dict[str, Any]:
        """How fast it is: ``speed``, seconds of speech a second, and ``notice``, a sentence where that is below real time."""

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type for Prometheus."""
