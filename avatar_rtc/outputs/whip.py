"""A push: the stream sent to a WHIP receiver (RFC 9725), of which this server is the client."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
from aiohttp import hdrs
from aiortc import RTCRtpCodecCapability, RTCRtpSender, RTCSessionDescription
from aiortc.sdp import SessionDescription
from yarl import URL

from avatar_rtc.config import ServerConfig
from avatar_rtc.logs import SessionLog
from avatar_rtc.media.broadcast import Broadcast
from avatar_rtc.media.clock import MediaClock
from avatar_rtc.metrics import Metrics
from avatar_rtc.outputs.output import Output
from avatar_rtc.outputs.peer import SendingPeer
from avatar_rtc.outputs.targets import NotPublicError, PublicResolver, check_target
from signaling.errors import Unprocessable
from signaling.ice import advertise
from signaling.service import NewPush

REQUEST_TIMEOUT_S = 10.0
HANG_UP_TIMEOUT_S = 3.0
LOOK_EVERY_S = 0.2
MAX_BLIND_S = 0.5
MAX_REDIRECTS = 5
MAX_ANSWER_BYTES = 1 << 16
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
PATIENCE_S = 600.0
"""So long it is tried again while nothing arrives."""
STEADY_S = 10.0
"""A connection that lasted for so long was a good one: pauses begin anew, and so does the patience."""
TRIED_AGAIN = frozenset({404, 408, 409, 425, 429})
"""Of 4xx. A receiver that comes back may not know the stream yet, or still have the one before."""


class PushError(Exception):
    """It does not arrive; the message says why.

    Attributes:
        is_final: to try again is of no use.
        retry_after_s: what the receiver asked for.
    """

    def __init__(self, message: str, *, is_final: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.is_final = is_final
        self.retry_after_s = retry_after_s


class Push(Output):
    """Offers the stream to a receiver, and again, with growing pauses, whenever nothing arrives there any more.

    Its state is ``connecting``, ``live`` while media arrive, and ``waiting`` between two tries. It has failed when the receiver
    refuses for good, or when nothing has arrived for ``PATIENCE_S``. Neither token nor path of the address is logged or told: a
    path may be a secret, too.

    Raises:
        signaling.errors.Unprocessable: nothing may be pushed to this address.
    """

    kind = "whip"

    def __init__(
        self,
        wanted: NewPush,
        broadcast: Broadcast,
        clock: MediaClock,
        config: ServerConfig,
        metrics: Metrics,
        log: SessionLog,
        on_change: Callable[[Output], None],
    ) -> None:
        super().__init__("connecting", on_change)
        self._url = check_target(wanted.url, config.whip.allow)
        self._token = wanted.token
        self._config = config
        self._log = log
        self._make_peer = partial(_Peer, broadcast, clock, config, metrics)
        self._peer: _Peer | None = None
        self._stopping = asyncio.Event()

    @property
    def is_seen(self) -> bool:
        return self.state == "live"

    def describe(self) -> dict[str, Any]:
        peer = self._peer
        return {
            **super().describe(),
            "to": str(self._url.origin()),
            "packets_sent": 0 if peer is None else peer.num_packets_sent,
            "packets_lost": 0 if peer is None else peer.num_packets_lost,
            "rtt_ms": None if peer is None else peer.rtt_ms,
        }

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        pushing = asyncio.ensure_future(self._push())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((pushing, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            pushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pushing
        if not self.is_over:
            self._change("ended")

    async def _push(self) -> None:
        connector = aiohttp.TCPConnector(resolver=PublicResolver(self._config.whip.allow), limit=4)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as http:
            pause_s, arrived_s = FIRST_PAUSE_S, _now()
            while True:
                try:
                    async with self._connection(http) as peer:
                        live_s = _now()
                        self._change("live")
                        await peer.until_lost()
                    if _now() - live_s > STEADY_S:
                        pause_s = FIRST_PAUSE_S
                        arrived_s = _now()
                    problem = PushError("The connection to the receiver was lost.")
                except PushError as error:
                    problem = error
                wait_s = max(pause_s * random.uniform(0.8, 1.2), min(problem.retry_after_s, PATIENCE_S))
                if problem.is_final or _now() + wait_s - arrived_s > PATIENCE_S:
                    self.fail(str(problem))
                    return
                self._change("waiting", f"{problem} Trying again in {wait_s:.0f} s.")
                await asyncio.sleep(wait_s)
                pause_s = min(2 * pause_s, MAX_PAUSE_S)
                self._change("connecting")

    @asynccontextmanager
    async def _connection(self, http: aiohttp.ClientSession) -> AsyncIterator[_Peer]:
        """A peer whose media arrive; whatever comes, the receiver is told when it is over.

        Raises:
            PushError: there is none.
        """
        self._peer = peer = self._make_peer()
        resource: URL | None = None
        try:
            offer = await peer.offer()
            answer, resource = await self._post(http, offer)
            await peer.accept(answer)
            self._log.info("whip: pushes %s to %s", "+".join(peer.codecs), self._url.origin())
            await peer.until_connected()
            yield peer
        finally:
            # The receiver first: else it may take the next connection for a second one.
            if resource is not None:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    timeout = aiohttp.ClientTimeout(total=HANG_UP_TIMEOUT_S)
                    async with http.delete(resource, headers=self._headers(), timeout=timeout, allow_redirects=False):
                        pass
            await peer.close()

    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {hdrs.AUTHORIZATION: f"Bearer {self._token}"}

    async def _post(self, http: aiohttp.ClientSession, offer: str) -> tuple[str, URL | None]:
        """Returns the answer and the resource that ends it."""
        headers = {hdrs.CONTENT_TYPE: "application/sdp", hdrs.ACCEPT: "application/sdp", **self._headers()}
        url = self._url
        try:
            for _ in range(1 + MAX_REDIRECTS):
                async with http.post(url, data=offer.encode(), headers=headers, allow_redirects=False) as response:
                    location = response.headers.get(hdrs.LOCATION)
                    if response.status in (307, 308) and location is not None:
                        url = self._follow(url, location)
                        continue
                    if response.status != 201:
                        raise _refusal(response)
                    answer = await _read_answer(response)
                    return answer, None if location is None else self._follow(url, location)
            raise PushError(f"The receiver redirects more than {MAX_REDIRECTS} times.", is_final=True)
        except aiohttp.ClientConnectorDNSError as error:
            is_final = isinstance(error.os_error, NotPublicError)
            words = "has no public address" if is_final else "cannot be found"
            raise PushError(f"The receiver's host {error.host} {words}.", is_final=is_final) from None
        except TimeoutError:
            raise PushError(f"The receiver has not answered within {REQUEST_TIMEOUT_S:.0f} s.") from None
        except aiohttp.ClientError as error:
            raise PushError(f"The receiver cannot be reached ({type(error).__name__}).") from None

    def _follow(self, url: URL, location: str) -> URL:
        """An address that the receiver names, which is no more trusted than the first one."""
        try:
            target = check_target(str(url.join(URL(location))), self._config.whip.allow)
        except (ValueError, Unprocessable):
            raise PushError("The receiver names an address that may not be connected to.", is_final=True) from None
        if url.scheme == "https" and target.scheme != "https":
            raise PushError("The receiver leads from https to http.", is_final=True)
        return target


class _Peer(SendingPeer):
    """One connection to a receiver.

    Attributes:
        codecs: that were agreed upon.
    """

    def __init__(self, broadcast: Broadcast, clock: MediaClock, config: ServerConfig, metrics: Metrics) -> None:
        super().__init__(broadcast, clock, config, metrics)
        self.codecs: list[str] = []
        self._news = asyncio.Event()
        self._is_lost = False

    async def offer(self) -> str:
        """Pictures and sound, with all addresses; of pictures first what is encoded anyway."""
        encoded = [codec for codec in self._broadcast.codecs if codec in self._config.media.video_codecs]
        self._send("video", _capabilities("video", [*encoded, *self._config.media.video_codecs]))
        self._send("audio", _capabilities("audio", ["opus"]))
        self._bound_ice()
        await self._peer.setLocalDescription(await self._peer.createOffer())
        self._listen()
        offer = self._peer.localDescription.sdp
        address = self._config.ice.advertised_address
        return offer if address is None else advertise(offer, address)

    async def accept(self, answer: str) -> None:
        """Raises ``PushError`` where the answer cannot be used."""
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(_completed(answer), "answer"))
        except Exception:
            # Whatever the transport stumbles over, what the receiver wrote is at fault.
            raise PushError("The receiver's answer cannot be used.", is_final=True) from None
        self.codecs = self._read()

    async def until_connected(self) -> None:
        """Raises ``PushError`` where no way is found in time."""
        timeout_s = self._config.limits.join_timeout_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        if self.connected_s is None or self._is_lost:
            raise PushError("The receiver answers, but no media get through; a firewall may block UDP.")

    async def until_lost(self) -> None:
        """While somebody is there."""
        looked_s = self._clock.now()
        while not self._is_lost and self.silent_s <= self._config.limits.vanish_after_s:
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = self._clock.now()
            if now_s - looked_s > MAX_BLIND_S:
                self.heard_s = now_s  # it was us who stood still; what arrived meanwhile is not read yet
            looked_s = now_s

    def _on_connected(self) -> None:
        self._news.set()

    def _on_lost(self, *, is_closed: bool) -> None:
        self._is_lost = True
        self._news.set()


def _capabilities(kind: str, names: Sequence[str]) -> list[RTCRtpCodecCapability]:
    """Codecs by their names in SDP, in this order, and retransmission. H.264 is constrained baseline, as it is encoded."""
    known = RTCRtpSender.getCapabilities(kind).codecs
    wanted = [
        codec
        for name in dict.fromkeys(names)
        for codec in known
        if codec.mimeType.lower() == f"{kind}/{name.lower()}" and codec.parameters.get("profile-level-id", "42e01f") == "42e01f"
    ]
    return wanted + [codec for codec in known if codec.mimeType.lower() == f"{kind}/rtx"]


def _completed(answer: str) -> str:
    """An answer whose sections all name the transport: in a bundle the first one says it for all (RFC 9429, section 5.3.1),
    and aiortc takes addresses of the last one."""
    description = SessionDescription.parse(answer)
    owner = next(media for media in description.media if media.port)
    for media in description.media:
        media.ice, media.dtls, media.ice_options = owner.ice, owner.dtls, owner.ice_options
        media.ice_candidates, media.ice_candidates_complete = owner.ice_candidates, owner.ice_candidates_complete
    return str(description)


def _refusal(response: aiohttp.ClientResponse) -> PushError:
    """By the status alone: what else is in the answer is told to nobody."""
    status = response.status
    retry_after = response.headers.get(hdrs.RETRY_AFTER, "")
    return PushError(
        f"The receiver answered with HTTP {status} in place of 201.",
        is_final=status < 500 and status not in TRIED_AGAIN,
        retry_after_s=float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after) else 0.0,
    )


async def _read_answer(response: aiohttp.ClientResponse) -> str:
    body = b""
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise PushError("The receiver's answer is too large.", is_final=True)
    if response.content_type != "application/sdp":
        raise PushError("The receiver's answer is no application/sdp.", is_final=True)
    return body.decode(errors="replace")


def _now() -> float:
    return asyncio.get_running_loop().time()
