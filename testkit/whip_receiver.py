"""A WHIP receiver: it takes pushes, decodes what comes, and can be killed."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from typing import Any

import av
from aiohttp import web
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

MAX_PICTURES = 200


class WhipReceiver:
    """Takes pushes at ``/live``, and sends those at ``/moved`` there.

    Args:
        token: of the bearer that may push.
        port: 0 takes a free one.

    Attributes:
        pictures: decoded last, of all pushes.
        num_pictures, num_sounds: decoded so far.
        codecs: of the video section of each offer that was taken, the first one.
        asked: method and path of all requests.
        deleted: how many pushes were ended by the client.
    """

    def __init__(self, token: str, port: int = 0) -> None:
        self.pictures: deque[av.VideoFrame] = deque(maxlen=MAX_PICTURES)
        self.num_pictures = self.num_sounds = 0
        self.answers: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.deleted = 0
        self.port = port
        self._token = token
        self._peers: dict[str, RTCPeerConnection] = {}
        self._tasks: list[asyncio.Task[None]] = []
        app = web.Application()
        app.add_routes([web.post("/live", self._take), web.post("/moved", self._moved), web.delete("/live/{id}", self._end)])
        self._runner = web.AppRunner(app)

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def kill(self) -> None:
        """Nothing arrives any more, and nothing says so."""
        await self._runner.cleanup()
        for task in self._tasks:
            task.cancel()
        for peer in self._peers.values():
            ice: Any = peer.getTransceivers()[0].receiver.transport.transport
            for protocol in ice._connection._protocols:
                protocol.transport.abort()
            await peer.close()

    def _is_known(self, request: web.Request) -> bool:
        self.asked.append((request.method, request.path))
        return request.headers.get("Authorization") == f"Bearer {self._token}"

    async def _moved(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        return web.Response(status=307, headers={"Location": "live"})

    async def _take(self, request: web.Request) -> web.Response:
        if not self._is_known(request):
            return web.Response(status=401, text="secret words of the receiver")
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        peer.on("track", lambda track: self._tasks.append(asyncio.ensure_future(self._decode(track))))
        await peer.setRemoteDescription(RTCSessionDescription(await request.text(), "offer"))
        await peer.setLocalDescription(await peer.createAnswer())
        name = secrets.token_hex(4)
        self._peers[name] = peer
        answer = peer.localDescription.sdp
        self.answers.append(answer)
        headers = {"Location": f"live/{name}", "ETag": '"1"'}
        return web.Response(status=201, text=answer, content_type="application/sdp", headers=headers)

    async def _end(self, request: web.Request) -> web.Response:
        if not self._is_known(request):
            return web.Response(status=401)
        self.deleted += 1
        await self._peers.pop(request.match_info["id"]).close()
        return web.Response()

    async def _decode(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                frame = await track.recv()
            except MediaStreamError:
                return
            if isinstance(frame, av.VideoFrame):
                self.pictures.append(frame)
                self.num_pictures += 1
            else:
                self.num_sounds += 1
