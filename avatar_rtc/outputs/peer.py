"""A peer connection that sends what a broadcast has encoded: what viewers and pushes have in common."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCIceTransport,
    RTCPeerConnection,
    RTCRtpCodecCapability,
)

from avatar_rtc import resources
from avatar_rtc.config import ServerConfig
from avatar_rtc.media.broadcast import Broadcast, Reader
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.media.encode import OPUS_CLOCK_HZ
from avatar_rtc.media.playout import VIDEO_CLOCK_HZ
from avatar_rtc.metrics import Metrics
from avatar_rtc.outputs import aiortc_patches as patches

PROBE_EVERY_S = 0.1
"""How often a peer is asked whether it lives while nothing comes from it. So exactly it is known since when it has heard
nothing."""
STATS_EVERY_S = 1.0


class SendingPeer(ABC):
    """One peer connection, from its offer to its end.

    Attributes:
        heard_s: when something last came from the other side, by the monotonic clock.
        connected_s: when it connected; None before.
    """

    def __init__(self, broadcast: Broadcast, clock: MediaClock, config: ServerConfig, metrics: Metrics) -> None:
        self.born_s = self.heard_s = clock.now()
        self.connected_s: float | None = None
        self.num_packets_sent = self.num_packets_lost = 0
        self.rtt_ms: float | None = None
        self._broadcast = broadcast
        self._clock = clock
        self._config = config
        self._metrics = metrics
        servers = [RTCIceServer(list(s.urls), s.username, s.credential) for s in config.ice.wire_servers()]
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._peer.on("connectionstatechange", self._on_connection)
        self._tracks = {kind: patches.ReaderTrack(kind) for kind in ("video", "audio")}
        self._readers: list[Reader] = []
        self._life: asyncio.Task[None] | None = None

    @property
    def silent_s(self) -> float:
        """For how long nothing has come from the other side."""
        return self._clock.now() - self.heard_s

    async def close(self) -> None:
        """Hang up; idempotent."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)
        for reader in self._readers:
            reader.close()
        for track in self._tracks.values():
            track.stop()
        await self._peer.close()
        resources.give_back_memory_soon()

    @abstractmethod
    def _on_connected(self) -> None:
        """Media can be sent."""

    @abstractmethod
    def _on_lost(self, *, is_closed: bool) -> None:
        """The connection is over: the other side closed it, or nothing gets through any more. May come more than once."""

    def _send(self, kind: str, codecs: Sequence[RTCRtpCodecCapability], *, receives: bool = False) -> None:
        """Have a section for pictures or sound in the description that is made next.

        Args:
            receives: what the other side sends in it is taken, too.
        """
        transceiver = self._peer.addTransceiver(self._tracks[kind], "sendrecv" if receives else "sendonly")
        transceiver.setCodecPreferences(list(codecs))
        if receives:
            patches.bound_receiving(transceiver.receiver)
            patches.hear_at_once(transceiver.receiver)

    def _read(self) -> list[str]:
        """Give each track what it sends, now that codecs are agreed upon, and before anything is sent. Returns their names."""
        codecs = []
        for transceiver in self._peer.getTransceivers():
            codec = patches.codec_name(transceiver)
            codecs.append(codec)
            is_video = transceiver.kind == "video"
            reader = (
                self._broadcast.read_video("H264" if codec == "H264" else "VP8") if is_video else self._broadcast.read_audio()
            )
            self._readers.append(reader)
            self._tracks[transceiver.kind].reader = reader
            patches.prepare_sender(transceiver.sender, reader, self._clock, VIDEO_CLOCK_HZ if is_video else OPUS_CLOCK_HZ)
        return codecs

    def _bound_ice(self) -> None:
        """To be called before addresses of either side are known."""
        for gatherer in {ice.iceGatherer for ice in self._transports()}:
            patches.bound_candidates(gatherer)
            patches.bound_gathering(gatherer, self._config.ice.udp_ports)
            patches.be_patient(gatherer)

    def _listen(self) -> None:
        """Notice what comes from the other side. To be called when addresses are gathered."""
        for ice in self._transports():
            patches.hear(ice, self._on_heard)
            patches.take_what_waits(ice)

    def _transports(self) -> set[RTCIceTransport]:
        """Sections of one bundle share one."""
        return {transceiver.receiver.transport.transport for transceiver in self._peer.getTransceivers()}

    def _on_heard(self) -> None:
        self.heard_s = self._clock.now()

    def _on_connection(self) -> None:
        state = self._peer.connectionState
        if state == "connected" and self.connected_s is None:
            self.connected_s = self.heard_s = self._clock.now()
            self._life = asyncio.create_task(self._live())
            self._on_connected()
        elif state in ("failed", "closed"):
            self._on_lost(is_closed=state == "closed")

    async def _live(self) -> None:
        """Ask a peer that is silent whether it lives, and read what it reports."""
        stats_s = self._clock.now()
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            if self.silent_s > PROBE_EVERY_S:
                for ice in self._transports():
                    patches.probe(ice)
            if self._clock.now() - stats_s >= STATS_EVERY_S:
                stats_s = self._clock.now()
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
