"""Mutated input against a real server on the instant engine: nothing may end a call, answer 500, or leak.

    python -m tests.fuzz events --count 20000                        # over the data channel and HTTP
    python -m tests.fuzz offers --count 20000 --minutes 60
    python -m tests.fuzz fragments                                   # of trickle ICE
    python -m tests.fuzz requests                                    # to any route

Everything stays on loopback: server and client are in this process, and no other address is named to connect to.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import logging
import math
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar
from urllib.parse import urljoin

import aiohttp
import hypothesis
from aiortc import RTCConfiguration, RTCPeerConnection
from hypothesis import strategies as st

from avatar_rtc.client import Call
from avatar_rtc.errors import CallError
from avatar_rtc.logs import shorten_what_is_no_http
from signaling.vocabulary import Error, Ping, Pong, SessionClosing
from tests import fuzz_cases
from tests.support.calls import serving

T = TypeVar("T")

SDP = {"Content-Type": "application/sdp"}
ANSWER_S = 20.0
MAX_FRAME_BYTES = 60_000
MAX_EVENTS_IN_A_ROW = 8
NUM_SEATS = 4
TELL_EVERY_S = 30.0
CHECK_TRACKS_EVERY = 500
MAX_STILL_S = 5.0
"""Whoever stands still for longer without computing was stopped, or the machine was."""
MAX_STILL_SHARE = 0.1
RECOVERY_S = 60.0


class Errors(logging.Handler):
    """Keeps what anybody logs as an error, or asyncio as an exception that nobody took."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Enough(KeyboardInterrupt):
    """Ends a run, which Hypothesis lets nothing else do."""


class Target:
    """A server that stays, and what was seen of it."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.errors = Errors()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._call: Call | None = None
        self._number = 0
        self._named = ""
        self._offer = make_offer()
        self._stopped_s = -math.inf

    def __enter__(self) -> Target:
        logging.getLogger().addHandler(self.errors)
        logging.getLogger("aiohttp.server").addFilter(shorten_what_is_no_http)
        self.run(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._stack.aclose())
        self._runner.close()
        logging.getLogger("aiohttp.server").removeFilter(shorten_what_is_no_http)
        logging.getLogger().removeHandler(self.errors)

    def run(self, step: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Take a step; once more if the process was stopped of late, because time-outs of all kinds mean nothing then.

        Raises:
            AssertionError: the step failed, or something was logged as an error.
        """
        try:
            return self._step(step, *args)
        except (AssertionError, CallError, aiohttp.ClientError, TimeoutError):
            if time.monotonic() - self._stopped_s > RECOVERY_S:
                raise
        self._step(self._recover)
        self.outcomes["repeated, for the process was stopped"] += 1
        return self._step(step, *args)

    def _step(self, step: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        try:
            result = self._runner.run(step(*args))
        finally:
            lines, self.errors.lines = self.errors.lines, []
        assert not lines, "\n".join(lines)
        return result

    async def _start(self) -> None:
        self._server = await self._stack.enter_async_context(serving(limits={"max_sessions": NUM_SEATS}))
        self._http = await self._stack.enter_async_context(aiohttp.ClientSession())
        watch = asyncio.create_task(self._watch())
        self._stack.callback(watch.cancel)
        async with self._http.get(f"{self._server.address}/livez") as response:
            assert response.status == 200

    async def _watch(self) -> None:
        """Notice that the process stood still without computing anything."""
        while True:
            wall_s, computed_s = time.monotonic(), time.process_time()
            await asyncio.sleep(0.2)
            still_s = time.monotonic() - wall_s
            if still_s > MAX_STILL_S and time.process_time() - computed_s < MAX_STILL_SHARE * still_s:
                self._stopped_s = time.monotonic()

    async def _recover(self) -> None:
        await self.hang_up()
        async with asyncio.timeout(ANSWER_S):
            while self._server.registry.num_sessions:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.1)

    # Events.

    async def take_events(self, events: Sequence[tuple[str, str]]) -> None:
        """Events one after the other, each over HTTP or the data channel; then the call must be as alive as before."""
        events = [event for event in events if len(event[0]) <= MAX_FRAME_BYTES]
        call = await self._caller()
        outcomes: Counter[str] = Counter()
        try:
            for frame, way in events:
                data = frame.encode(errors="surrogatepass")
                if way == "http":
                    url = f"{self._server.address}/v1/sessions/{call.session_id}/events"
                    async with self._http.post(url, data=data) as response:
                        outcomes[f"HTTP {response.status}"] += 1
                        assert response.status in (202, 400, 404, 413, 422, 429), await response.text()
                else:
                    call.channel.send(data if way == "bytes" or not _is_text(data) else frame)
            await self._check_alive(call)
            errors = call.received(Error)
            assert not [error for error in errors if error.code == "internal_error"], errors
        except BaseException as error:
            error.add_note(f"after {self.outcomes['sent']} events; {self._states(call)}")
            self._call = None
            await call.close()
            raise
        outcomes.update(f"channel {error.code}" for error in errors)
        self.outcomes += outcomes
        self.outcomes["sent"] += len(events)

    async def check_tracks(self) -> None:
        """Both tracks of the call go on, and a line is said to its end."""
        call = self._call
        if call is None:
            return
        pictures, sounds = len(call.video.pts), len(call.audio.pts)
        line = await call.speak("Still here.", mode="replace")
        assert (line.status, line.heard_text) == ("completed", "Still here.")
        assert len(call.video.pts) > pictures + 5
        assert len(call.audio.pts) > sounds + 5

    async def _caller(self) -> Call:
        """The call that must be as alive afterwards."""
        if self._call is None:
            self._call = Call(self._server.address)
            await self._call.connect()
        self._call.events.clear()
        return self._call

    async def _check_alive(self, call: Call) -> None:
        """The session has come to the end of what it was sent: it answers what was sent last."""
        self._number += 1
        number = self._number
        call.send(Ping(t=number, event_id=f"alive {number}"))

        def answered() -> bool:
            return any(isinstance(event, Pong) and event.t == number for _, event in reversed(call.events))

        await call.wait_for(answered, ANSWER_S, "the call is dead")
        assert not call.received(SessionClosing)

    def _states(self, call: Call) -> str:
        """What both sides of a call are at, for whoever looks into why it died."""
        sides = {"client": call.peer} | {
            f"viewer {number}": viewer._peer
            for session in self._server.registry.live
            for number, viewer in session.audience.viewers.items()
        }
        return "; ".join(f"{side}: {_state(peer)}" for side, peer in sides.items())

    async def hang_up(self) -> None:
        """All sessions end."""
        if self._call is not None:
            call, self._call = self._call, None
            await call.close()
        await self._end_others()

    # Offers.

    async def take_offer(self, offer: str) -> None:
        """One offer; if it is taken, the session is ended. All seats are free afterwards."""
        if "a=candidate" in offer or len(offer) > MAX_FRAME_BYTES:
            return
        self.outcomes["sent"] += 1
        async with self._http.post(f"{self._server.address}/whep", data=offer.encode(), headers=SDP) as response:
            self.outcomes[f"HTTP {response.status}"] += 1
            assert response.status in (201, 400, 413, 422), await response.text()
            location = response.headers.get("Location")
        if location is not None:
            async with self._http.delete(urljoin(f"{self._server.address}/whep", location)) as response:
                assert response.status == 200
        assert self._server.registry.num_sessions == 0

    # Fragments.

    async def take_fragment(self, case: tuple[str, str, bool]) -> None:
        """One fragment to the viewer of a running call, or to one whose addresses are not known yet."""
        fragment, etag, is_running = case
        if not _stays_here(fragment) or len(fragment) > MAX_FRAME_BYTES:
            return
        self.outcomes["sent"] += 1
        call = await self._caller()
        if is_running:
            await self._trickle(call.resource, call.peer.localDescription.sdp, fragment, etag or call.etag)
            await self._check_alive(call)
            return
        async with self._http.post(f"{self._server.address}/whep", data=self._offer, headers=SDP) as response:
            assert response.status == 201
            resource = urljoin(f"{self._server.address}/whep", response.headers["Location"])
            await self._trickle(resource, self._offer, fragment, etag or response.headers["ETag"])
        async with self._http.delete(resource) as response:
            assert response.status == 200

    async def _trickle(self, resource: str, offer: str, fragment: str, etag: str) -> None:
        found = re.search(r"a=ice-ufrag:(\S+)", offer)
        assert found is not None
        body = fragment.replace("{ufrag}", found[1]).encode()
        headers = {"Content-Type": "application/trickle-ice-sdpfrag", "If-Match": etag}
        async with self._http.patch(resource, data=body, headers=headers) as response:
            self.outcomes[f"HTTP {response.status}"] += 1
            assert response.status in (204, 400, 412, 413, 422), await response.text()

    # Requests.

    async def take_request(self, request: fuzz_cases.Request) -> None:
        """One request; what it made is ended, and the call is as alive as before."""
        method, target, headers, body = request
        call = await self._caller()
        if self._named not in {session.session_id for session in self._server.registry.live}:
            async with self._http.post(f"{self._server.address}/v1/sessions", json={"idle_s": 3600}) as response:
                self._named = (await response.json())["id"]
        data = body.replace("{id}", self._named).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: x", "Connection: close", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        head = "".join(re.sub(r"[\r\n]", "", line) + "\r\n" for line in lines).replace("{id}", self._named)
        if "a=candidate" in body or not _stays_here(head + body) or len(data) > MAX_FRAME_BYTES:
            return
        self.outcomes["sent"] += 1
        answer = await self._ask(head.encode() + b"\r\n" + data)
        self.outcomes[answer] += 1
        assert re.fullmatch(r"HTTP [1-4]\d\d|HTTP 503|closed", answer), answer
        await self._end_others(call.session_id, self._named)
        await self._check_alive(call)

    async def _ask(self, request: bytes) -> str:
        """The status of the answer. Its body is not waited for: there are some without an end."""
        port = int(self._server.address.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            async with asyncio.timeout(ANSWER_S):
                while True:
                    line = await reader.readline()
                    if not line or not line.startswith(b"HTTP/1.1 100"):
                        return f"HTTP {line.split()[1].decode()}" if line else "closed"
                    await reader.readline()
        except ConnectionError:
            return "closed"
        finally:
            writer.close()

    async def _end_others(self, *session_ids: str) -> None:
        for session in self._server.registry.live:
            if session.session_id not in session_ids:
                session.end("deleted")
                await session.finished()

    def kinds(self) -> dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], Coroutine[Any, Any, None]]]]:
        """What is made up, and what takes it."""
        frames = st.one_of(fuzz_cases.mutated(fuzz_cases.EVENTS, fuzz_cases.NASTY), fuzz_cases.made_up_events())
        event = st.tuples(frames, st.sampled_from(["text", "bytes", "http"]))
        etag = st.sampled_from(["", "", "", "*", '"x"', "x"])
        return {
            "events": (st.lists(event, min_size=1, max_size=MAX_EVENTS_IN_A_ROW), self.take_events),
            "offers": (fuzz_cases.offers(self._offer), self.take_offer),
            "fragments": (st.tuples(fuzz_cases.fragments(), etag, st.booleans()), self.take_fragment),
            "requests": (fuzz_cases.requests(), self.take_request),
        }

    async def settle(self) -> int:
        """How many file descriptors are open, and tasks run, when nothing goes on."""
        await asyncio.sleep(0.5)
        gc.collect()
        assert self._server.registry.num_sessions == 0
        return len(os.listdir("/proc/self/fd")) + len(asyncio.all_tasks())


def _stays_here(text: str) -> bool:
    """Whether all addresses that it names are of this machine."""
    for word in re.split(r"[^0-9A-Fa-f:.]", text):
        with suppress(ValueError):
            if not ipaddress.ip_address(word).is_loopback:
                return False
    return "whip" not in text or "//" not in text


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _state(peer: RTCPeerConnection) -> str:
    assert peer.sctp is not None
    sctp: Any = peer.sctp
    in_flight = f"{len(sctp._sent_queue)} packets, {sctp._flight_size} of {sctp._cwnd} bytes"
    timer = "no" if sctp._t3_handle is None else f"{sctp._t3_handle.when() - asyncio.get_running_loop().time():.2f} s to the"
    return ", ".join(
        [
            peer.connectionState,
            f"ICE {peer.iceConnectionState}, DTLS {sctp.transport.state}, SCTP {sctp._association_state.name}",
            f"in flight {in_flight}, {len(sctp._outbound_queue)} packets wait",
            f"{timer} retransmission of {sctp._rto:.2f} s",
            *(f"channel {channel.readyState}, {channel.bufferedAmount} bytes wait" for channel in sctp._data_channels.values()),
        ]
    )


def make_offer() -> str:
    """What aiortc offers, without candidates."""

    async def make() -> str:
        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        for kind in ("video", "audio"):
            peer.addTransceiver(kind, direction="recvonly")
        peer.createDataChannel("events")
        await peer.setLocalDescription(await peer.createOffer())
        await peer.close()
        return re.sub(r"a=candidate:.*\r\n", "", peer.localDescription.sdp)

    return asyncio.run(make())


def fuzz(
    what: str, count: int, *, minutes: float, seed: int, on_progress: Callable[[Counter[str]], None] = lambda outcomes: None
) -> Counter[str]:
    """Mutate and send; what came of it.

    Args:
        what: ``events``, ``offers``, ``fragments`` or ``requests``.
        count: at most so many.
        minutes: after them no more are sent.
        on_progress: hears now and then what came of it so far.

    Raises:
        AssertionError, CallError: a call died, the server failed, or something leaked. Hypothesis has reduced what caused it.
    """
    end_s, told_s = time.monotonic() + 60 * minutes, time.monotonic()
    checked = 0
    with Target() as target:
        cases, take = target.kinds()[what]

        def send(case: Any) -> None:
            nonlocal told_s, checked
            if time.monotonic() > end_s or target.outcomes["sent"] >= count:
                raise Enough
            target.run(take, case)
            if target.outcomes["sent"] - checked >= CHECK_TRACKS_EVERY:
                checked = target.outcomes["sent"]
                target.run(target.check_tracks)
            if time.monotonic() - told_s >= TELL_EVERY_S:
                told_s = time.monotonic()
                on_progress(target.outcomes)

        rules = hypothesis.settings(
            # More than are needed: some are not sent.
            max_examples=2 * count,
            database=None,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        opened = target.run(target.settle)
        with suppress(Enough):
            hypothesis.seed(seed)(rules(hypothesis.given(cases)(send)))()
        target.run(target.check_tracks)
        target.run(target.hang_up)
        left = target.run(target.settle)
        assert left <= opened, f"{left} file descriptors and tasks are left, of {opened}"
        return target.outcomes


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=("events", "offers", "fragments", "requests"))
    parser.add_argument("--count", type=int, default=20_000, help="how many (default: 20000)")
    parser.add_argument("--minutes", type=float, default=30.0, help="not longer than this (default: 30)")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(1 << 31), help="to repeat a run (default: another each time)"
    )
    options = parser.parse_args()
    logging.getLogger("avatar_rtc").setLevel(logging.WARNING)
    print(f"seed {options.seed}", flush=True)
    began_s = time.monotonic()

    def rate(num_sent: int) -> str:
        seconds = time.monotonic() - began_s
        return f"{num_sent} {options.what} in {seconds:.0f} s, {num_sent / seconds:.1f} a second"

    def tell(outcomes: Counter[str]) -> None:
        came = ", ".join(f"{outcome} {number}" for outcome, number in outcomes.most_common() if outcome != "sent")
        print(f"{rate(outcomes['sent'])}: {came}", flush=True)

    outcomes = fuzz(options.what, options.count, minutes=options.minutes, seed=options.seed, on_progress=tell)
    print(f"{rate(outcomes.pop('sent'))}, no call dead, no 500, nothing left")
    for outcome, number in outcomes.most_common():
        print(f"  {outcome:<40} {number}")


if __name__ == "__main__":
    main()
