"""A WebRTC viewer of a session: one peer connection, from its offer to its end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, Protocol

from aiortc import MediaStreamTrack, RTCSessionDescription

from avatar_rtc.config import ServerConfig
from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.broadcast import Broadcast
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.metrics import Metrics
from avatar_rtc.outputs import aiortc_patches as patches
from avatar_rtc.outputs.channels import EventChannels
from avatar_rtc.outputs.offer import MediaPlan, plan_media, read_candidate
from avatar_rtc.outputs.peer import SendingPeer
from signaling.dialects.dialect import Dialect
from signaling.errors import BadOffer, SignalingError
from signaling.ice import IceFragment, advertise
from signaling.service import Rights
from signaling.vocabulary import Event

Departure = Literal["deleted", "left", "vanished", "join_timeout", "connection_failed", "refused"]
"""How a viewer went. Only who has vanished may come back: nobody knows where it is."""
WAKE_PATIENCE_S = 1.0
"""Who comes back and says nothing is shown the stream after so long."""


class Host(Protocol):
    """What a viewer needs of its session."""

    broadcast: Broadcast
    clock: MediaClock
    events: EventLog

    def hello(self, rights: Rights, *, is_resumed: bool) -> Sequence[Event]:
        """How things stand, for who has just come. ``is_resumed``: the session went on before."""

    def on_message(self, viewer: Viewer, frame: str | bytes) -> None:
        """A message of a data channel. Must not raise."""

    def on_shown(self, viewer: Viewer) -> None:
        """The stream is to go on for it."""

    def on_microphone(self, viewer: Viewer, track: MediaStreamTrack) -> None:
        """It may send sound, which comes from this track."""

    def on_gone(self, viewer: Viewer, reason: Departure) -> None:
        """The connection is over."""


class Viewer(SendingPeer):
    """One peer that is shown a session.

    Args:
        rights: what it may.
        dialect: of its data channel.
        after: number of the last event that it knows; None for one that was not there before, which is told how things stand.
        is_resumed: it joins a session that others, or it itself, have seen before.

    Attributes:
        etag: names its ICE session.
        is_shown: the stream is to go on for it. It is connected, and if it has come back, it has said something: a page that does
            so plays what comes, while one that is only connected may not yet, and would miss words.
    """

    def __init__(
        self,
        viewer_id: str,
        host: Host,
        config: ServerConfig,
        metrics: Metrics,
        log: SessionLog,
        *,
        rights: Rights,
        dialect: Dialect,
        after: int,
        is_resumed: bool,
    ) -> None:
        super().__init__(host.broadcast, host.clock, config, metrics)
        self.viewer_id = viewer_id
        self.rights = rights
        self.dialect = dialect
        self.is_resumed = is_resumed
        self.etag = secrets.token_hex(8)
        self.is_shown = False
        self._waking: asyncio.TimerHandle | None = None
        self._host = host
        self._log = log
        self._plan: MediaPlan | None = None
        hello = partial(host.hello, rights, is_resumed=is_resumed)
        self.channels = EventChannels(host.events, dialect, after, hello, self._on_frame, metrics, log)
        self._peer.on("datachannel", self.channels.add)
        if self.listens:
            self._peer.on("track", self._on_track)

    @property
    def listens(self) -> bool:
        """Whether it is heard, if it offers to send sound."""
        return self._config.listen is not None and self.rights.may_speak

    async def negotiate(self, offer: str) -> str:
        """Answer an SDP offer.

        Raises:
            signaling.errors.BadOffer: it is no SDP, or not one that can be used.
            signaling.errors.Unprocessable: nothing to send in, or no common codec.
        """
        with self._reading("an SDP offer", "bad_sdp"):
            self._plan = plan = plan_media(offer, self._config.media.video_codecs)
            for planned in plan.tracks:
                receives = self.listens and planned.kind == "audio" and planned.may_send
                self._send(planned.kind, planned.codecs, receives=receives)
            self._bound_ice()
            await self._peer.setRemoteDescription(RTCSessionDescription(plan.sdp, "offer"))
        codecs = self._read()
        if self._peer.sctp is not None:
            patches.quicken_retransmission(self._peer.sctp)
            patches.take_every_message(self._peer.sctp)
            patches.lose_what_comes_too_late(self._peer.sctp)
            patches.read_all_that_came(self._peer.sctp.transport)
        with self._reading("an SDP offer", "bad_sdp"):
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        self._listen()
        answer = plan.answer(self._peer.localDescription.sdp)
        if self._config.ice.advertised_address is not None:
            answer = advertise(answer, self._config.ice.advertised_address)
        self._log.info("viewer %.8s: %s%s", self.viewer_id, "+".join(codecs), "" if self.rights.is_caller else ", watches")
        return answer

    def is_other_ice_session(self, fragment: IceFragment) -> bool:
        """Whether a fragment belongs to other ICE credentials than those of the offer: the client wants to restart ICE."""
        assert self._plan is not None
        return fragment.ufrag is not None and fragment.ufrag not in self._plan.ice_ufrags

    async def trickle(self, fragment: IceFragment) -> None:
        """Add the client's candidates.

        Raises:
            signaling.errors.BadOffer: one of them cannot be read.
        """
        assert self._plan is not None
        for mid, line in fragment.candidates:
            with self._reading(f"an ICE candidate: {line!r:.120}", "bad_ice_fragment"):
                candidate = read_candidate(line)
                if candidate is not None and mid in self._plan.mids:
                    candidate.sdpMid = self._plan.transport_mid
                    await self._peer.addIceCandidate(candidate)

    async def close(self) -> None:
        """Hang up; idempotent."""
        if self._waking is not None:
            self._waking.cancel()
        self.channels.close()
        await super().close()

    @contextlib.contextmanager
    def _reading(self, what: str, code: str) -> Iterator[None]:
        """Whatever the transport stumbles over, what it was given is at fault; except that a machine may have no more sockets."""
        try:
            yield
        except (SignalingError, OSError):
            raise
        except Exception as error:
            reason = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}".strip()
            self._log.info("refused %s: %s", what, reason)
            raise BadOffer(
                f"The body is not {what} that can be used ({reason}). Send what the browser gave.", code=code
            ) from None

    def _on_connected(self) -> None:
        assert self.connected_s is not None
        self._metrics.join_s.labels("connected").observe(self.connected_s - self.born_s)
        self._log.info("viewer %.8s: connected after %.0f ms", self.viewer_id, (self.connected_s - self.born_s) * 1000)
        if self.is_resumed and self._peer.sctp is not None:
            self._waking = asyncio.get_running_loop().call_later(WAKE_PATIENCE_S, self._wake)
        else:
            self._wake()

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._host.on_microphone(self, track)

    def _on_frame(self, frame: str | bytes) -> None:
        self._wake()
        self._host.on_message(self, frame)

    def _wake(self) -> None:
        if self.connected_s is not None and not self.is_shown:
            self.is_shown = True
            self._host.on_shown(self)

    def _on_lost(self, *, is_closed: bool) -> None:
        lost: Departure = "left" if is_closed else "vanished"
        self._host.on_gone(self, lost if self.connected_s is not None else "connection_failed")
