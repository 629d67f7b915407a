"""A WebRTC viewer of a session: one peer connection, from its offer to its end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransport,
    RTCPeerConnection,
    RTCSessionDescription,
)

from avatar_rtc.config import ServerConfig
from avatar_rtc.event_log import EventLog
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.broadcast import Broadcast, Reader
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.encode import OPUS_CLOCK_HZ
from avatar_rtc.media.playout import VIDEO_CLOCK_HZ
from avatar_rtc.metrics import Metrics
from avatar_rtc.outputs import aiortc_patches as patches
from avatar_rtc.outputs.channels import EventChannels
from avatar_rtc.outputs.offer import MediaPlan, plan_media, read_candidate
from signaling.errors import BadOffer, SignalingError
from signaling.ice import IceFragment, advertise
from signaling.vocabulary import Event

PROBE_EVERY_S = 0.1
"""How often a peer is asked whether it lives while nothing comes from it. So exactly it is known since when it has heard
nothing."""
STATS_EVERY_S = 1.0


Departure = Literal["deleted", "left", "vanished", "join_timeout", "connection_failed", "refused"]
"""How a viewer went. Only who has vanished may come back: nobody knows where it is."""


class Host(Protocol):
    """What a viewer needs of its session."""

    broadcast: Broadcast
    clock: MediaClock
    events: EventLog

    def hello(self, viewer: Viewer) -> Sequence[Event]:
        """How things stand, for a viewer that has just come."""

    def on_message(self, viewer: Viewer, frame: str | bytes) -> None:
        """A message of a data channel. Must not raise."""

    def on_connected(self, viewer: Viewer) -> None:
        """Media can be sent."""

    def on_gone(self, viewer: Viewer, reason: Departure) -> None:
        """The connection is over."""


class Viewer:
    """One peer that is shown a session.

    Args:
        may_speak: its commands are carried out; else it watches.
        may_record: it is told that it may.
        after: number of the last event that it knows; None for one that was not there before, which is told how things stand.
        is_resumed: it joins a session that others, or it itself, have seen before.

    Attributes:
        etag: names its ICE session.
        heard_s: when something last came from it, by the monotonic clock.
        connected_s: when it connected; None before.
    """

    def __init__(
        self,
        viewer_id: str,
        host: Host,
        config: ServerConfig,
        metrics: Metrics,
        log: SessionLog,
        *,
        may_speak: bool,
        may_record: bool,
        after: int,
        is_resumed: bool,
    ) -> None:
        self.viewer_id = viewer_id
        self.may_speak = may_speak
        self.may_record = may_record
        self.is_resumed = is_resumed
        self.etag = secrets.token_hex(8)
        self.born_s = self.heard_s = host.clock.now()
        self.connected_s: float | None = None
        self.num_packets_sent = self.num_packets_lost = 0
        self.rtt_ms: float | None = None
        self._host = host
        self._config = config
        self._metrics = metrics
        self._log = log
        servers = [RTCIceServer(list(s.urls), s.username, s.credential) for s in config.ice.wire_servers()]
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._tracks = {kind: patches.ReaderTrack(kind) for kind in ("video", "audio")}
        self._readers: list[Reader] = []
        self._plan: MediaPlan | None = None
        self.channels = EventChannels(
            host.events, after, lambda: host.hello(self), lambda frame: host.on_message(self, frame), metrics, log
        )
        self._peer.on("datachannel", self.channels.add)
        self._peer.on("connectionstatechange", self._on_connection)
        self._life: asyncio.Task[None] | None = None

    async def negotiate(self, offer: str) -> str:
        """Answer an SDP offer.

        Raises:
            signaling.errors.BadOffer: it is no SDP, or not one that can be used.
            signaling.errors.Unprocessable: nothing to send in, or no common codec.
        """
        with self._reading("an SDP offer", "bad_sdp"):
            self._plan = plan = plan_media(offer, self._config.media.video_codecs)
            for planned in plan.tracks:
                self._peer.addTransceiver(self._tracks[planned.kind], "sendonly").setCodecPreferences(list(planned.codecs))
            await self._peer.setRemoteDescription(RTCSessionDescription(plan.sdp, "offer"))
        codecs = []
        for transceiver in self._peer.getTransceivers():
            codec = patches.codec_name(transceiver)
            codecs.append(codec)
            is_video = transceiver.kind == "video"
            broadcast = self._host.broadcast
            reader = broadcast.read_video("H264" if codec == "H264" else "VP8") if is_video else broadcast.read_audio()
            self._readers.append(reader)
            self._tracks[transceiver.kind].reader = reader
            patches.prepare_sender(transceiver.sender, reader, self._host.clock, VIDEO_CLOCK_HZ if is_video else OPUS_CLOCK_HZ)
        for gatherer in {ice.iceGatherer for ice in self._transports()}:
            patches.bound_gathering(gatherer, self._config.ice.udp_ports)
            patches.be_patient(gatherer)
        if self._peer.sctp is not None:
            patches.quicken_retransmission(self._peer.sctp)
            patches.take_every_message(self._peer.sctp)
        with self._reading("an SDP offer", "bad_sdp"):
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        for ice in self._transports():
            patches.hear(ice, self._on_heard)
        answer = plan.answer(self._peer.localDescription.sdp)
        if self._config.ice.advertised_address is not None:
            answer = advertise(answer, self._config.ice.advertised_address)
        self._log.info("viewer %.8s: %s%s", self.viewer_id, "+".join(codecs), "" if self.may_speak else ", watches")
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

    @property
    def silent_s(self) -> float:
        """For how long nothing has come from it."""
        return self._host.clock.now() - self.heard_s

    async def close(self) -> None:
        """Hang up; idempotent."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        self.channels.close()
        for reader in self._readers:
            reader.close()
        for track in self._tracks.values():
            track.stop()
        await self._peer.close()

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

    def _transports(self) -> set[RTCIceTransport]:
        """Sections of one bundle share one."""
        return {transceiver.receiver.transport.transport for transceiver in self._peer.getTransceivers()}

    def _on_heard(self) -> None:
        self.heard_s = self._host.clock.now()

    def _on_connection(self) -> None:
        state = self._peer.connectionState
        if state == "connected" and self.connected_s is None:
            self.connected_s = self.heard_s = self._host.clock.now()
            self._metrics.join_s.labels("connected").observe(self.connected_s - self.born_s)
            self._log.info("viewer %.8s: connected after %.0f ms", self.viewer_id, (self.connected_s - self.born_s) * 1000)
            self._life = asyncio.create_task(self._live())
            self._host.on_connected(self)
        elif state in ("failed", "closed"):
            lost: Departure = "left" if state == "closed" else "vanished"
            self._host.on_gone(self, lost if self.connected_s is not None else "connection_failed")

    async def _live(self) -> None:
        """Ask a peer that is silent whether it lives, and read what it reports."""
        stats_s = self._host.clock.now()
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            if self.silent_s > PROBE_EVERY_S:
                for ice in self._transports():
                    patches.probe(ice)
            if self._host.clock.now() - stats_s >= STATS_EVERY_S:
                stats_s = self._host.clock.now()
                await self._read_stats()

    async def _read_stats(self) -> None:
        sent = lost = 0
        for sender in self._peer.getSenders():
            stats: Any = (await sender.getStats()).values()
            for stat in stats:
                if stat.type == "outbound-rtp":
                    sent += stat.packetsSent
                elif stat.type == "remote-inbound-rtp":
                    lost += stat.packetsLost
                    if stat.roundTripTime is not None:
                        self.rtt_ms = round(stat.roundTripTime * 1000, 1)
                        self._metrics.rtt_s.observe(stat.roundTripTime)
                    self._metrics.fraction_lost.observe(stat.fractionLost / 256)
        self.num_packets_sent, self.num_packets_lost = sent, lost
