"""What HTTP needs of the service behind it. The service imports this; never the other way round."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from signaling.dialects.dialect import Dialect
from signaling.ice import IceFragment, IceServer
from signaling.vocabulary import Command, Event, Tool


@dataclass(frozen=True)
class Answer:
    """A viewer that was admitted.

    Attributes:
        viewer_id: 128 random bits, the end of ``Location``. Only this viewer knows them.
        etag: names the ICE session, without quotes.
        sdp: the answer, with all candidates of the server.
        session_id: what it watches.
    """

    viewer_id: str
    etag: str
    sdp: str
    session_id: str


@dataclass(frozen=True)
class Rights:
    """What a viewer may.

    Attributes:
        is_caller: the call is its own, and over when it hangs up. Else it watches.
        may_speak: commands on its data channel are carried out.
        may_record: it is told that it may begin recordings, where there are any.
    """

    is_caller: bool = True
    may_speak: bool = True
    may_record: bool = True


@dataclass(frozen=True)
class NewRecording:
    """A recording on the server's disk is wanted."""


@dataclass(frozen=True)
class NewPush:
    """The stream is to be sent to a WHIP receiver.

    Attributes:
        token: a bearer's; never told or logged.
    """

    url: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


NewOutput = NewRecording | NewPush


@dataclass(frozen=True)
class NewSession:
    """Who is wanted. Presets by their ids; ``scene`` and ``voice`` may be words, too. None takes the default.

    Attributes:
        owner: id of the principal whose it is.
        name: for people and lists; unique among its owner's sessions that live.
        idle_s: without a viewer or another output it ends after so many seconds.
        outputs: where it goes from its beginning.
        wait_s: where all seats are taken, so long one is waited for; None for not at all.
        ticket: of a place among those who wait, which an earlier answer told.
        instructions, tools: for the language model; see :class:`signaling.vocabulary.SessionUpdate`.
    """

    owner: str
    avatar: str | None = None
    scene: str | None = None
    voice: str | None = None
    name: str | None = None
    idle_s: float | None = None
    outputs: tuple[NewOutput, ...] = ()
    wait_s: float | None = None
    ticket: str | None = None
    instructions: str | None = None
    tools: Sequence[Tool] | None = None


class SessionService(Protocol):
    """Every method raises ``signaling.errors.SignalingError`` where it cannot do what was asked."""

    @property
    def ice_servers(self) -> tuple[IceServer, ...]:
        """What clients are told to use."""

    def owner(self, session_id: str) -> str | None:
        """The id of the principal whose a session is, also for a while after its end; None where nobody knows.

        Here and in what follows the id of one of its viewers names a session, too: a client may know its ``Location`` only.
        """

    def new_id(self) -> str:
        """A name that nobody can guess, for what is found again by it; in a cluster it leads to this node."""

    def check_call(self, wanted: NewSession) -> None:
        """Raises what ``call`` would now, before there is an offer: no seat, or nothing that could be shown."""

    async def call(self, offer: str, wanted: NewSession, rights: Rights, dialect: Dialect) -> Answer:
        """Take a seat for a new session, and answer the offer of its first viewer, whose data channel speaks a dialect."""

    async def join(self, session_id: str, offer: str, rights: Rights, dialect: Dialect, *, after: int | None) -> Answer:
        """Answer the offer of a further viewer of a session.

        Args:
            dialect: of its data channel.
            after: number of the last event that it knows: it was there before and comes back.
        """

    async def trickle(self, viewer_id: str, etags: Collection[str], fragment: IceFragment) -> None:
        """Candidates of a viewer.

        Args:
            etags: one of them must be that of the answer, or ``*``, for whatever there is: a viewer has one ICE session only.
        """

    async def leave(self, viewer_id: str) -> None:
        """Hang a viewer up. A session that came with a call ends with the last of its callers; its seat is free then."""

    async def create(self, wanted: NewSession) -> dict[str, Any]:
        """Take a seat for a session that nobody watches yet; returns what ``stats`` would."""

    def sessions(self) -> list[dict[str, Any]]:
        """The counters of all sessions."""

    async def end(self, session_id: str) -> None:
        """End a session; returns when its seat is free."""

    async def handle(self, session_id: str, command: Command) -> None:
        """The same as the command on the data channel. Raises ``signaling.vocabulary.EventError``."""

    def events(self, session_id: str, after: int | None) -> AsyncIterator[tuple[Event, int]]:
        """The events of a session with their numbers, to its end.

        Args:
            after: number of the last event that is known; None for what happens from now on.
        """

    def attend(self, session_id: str, rights: Rights) -> AsyncGenerator[tuple[Event, int | None]]:
        """What a viewer with a data channel would be told: how things stand, and what happens from now on."""

    async def stats(self, session_id: str) -> dict[str, Any]:
        """Counters of one session."""

    async def add_output(self, session_id: str, wanted: NewOutput) -> dict[str, Any]:
        """Let a session go to one more place; returns what ``output`` would."""

    def output(self, session_id: str, output_id: str) -> dict[str, Any]:
        """Where one output goes, and how it stands."""

    async def end_output(self, session_id: str, output_id: str) -> dict[str, Any]:
        """End an output; returns what became of it. One that has ended stays so."""

    def recording(self, session_id: str, file_name: str) -> Path:
        """The file of a recording, also of a session that has ended."""

    def avatars(self) -> dict[str, Any]:
        """The presets: looks and voices."""

    def models(self) -> dict[str, Any]:
        """What is served."""

    def not_ready(self) -> list[str]:
        """Reasons why no session can start now; empty when ready."""

    def capacity(self) -> dict[str, Any]:
        """How many calls fit, and how many of these seats are free."""

    def drain(self) -> dict[str, Any]:
        """Take no more calls; those that run are told, and go on for a while. Idempotent; returns what ``capacity`` would."""

    def speed(self) -> dict[str, Any]:
        """How fast it is: ``speed``, seconds of speech a second, and ``notice``, a sentence where that is below real time."""

    def metrics(self) -> tuple[bytes, str]:
        """Body and content type for Prometheus."""
