"""A viewer that receives and answers reports, and decodes nothing."""

from __future__ import annotations

import queue
from typing import Any

import aiohttp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription


class Undecoded(queue.Queue[Any]):
    """Stands where a receiver of aiortc's has the queue of its decoder: what comes is counted, and nothing else.

    Attributes:
        num_frames: pictures or pieces of sound so far.
    """

    num_frames = 0

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if item is None:  # the end
            super().put(item)
        else:
            self.num_frames += 1


class LightViewer:
    """One peer of a session."""

    def __init__(self) -> None:
        self._peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._peer.createDataChannel("events")
        self._queues = {"video": Undecoded(), "audio": Undecoded()}
        for kind, undecoded in self._queues.items():
            receiver: Any = self._peer.addTransceiver(kind, direction="recvonly").receiver
            receiver._RTCRtpReceiver__decoder_queue = undecoded

    @property
    def num_pictures(self) -> int:
        return self._queues["video"].num_frames

    async def connect(self, whep_url: str) -> None:
        """Returns when the server has answered; media come some time later."""
        await self._peer.setLocalDescription(await self._peer.createOffer())
        offer, headers = self._peer.localDescription.sdp, {"Content-Type": "application/sdp"}
        async with aiohttp.ClientSession() as http, http.post(whep_url, data=offer, headers=headers) as response:
            assert response.status == 201, await response.text()
            await self._peer.setRemoteDescription(RTCSessionDescription(await response.text(), "answer"))

    async def close(self) -> None:
        await self._peer.close()
