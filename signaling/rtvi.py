"""The routes that Pipecat's SmallWebRTC transport calls: ``/start``, ``/api/offer``, and the latter for what was started."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from signaling import waiting
from signaling.auth import principal_of
from signaling.bodies import explain, read_bytes
from signaling.dialects.rtvi import RtviDialect
from signaling.errors import UnknownSession, Unprocessable
from signaling.ice import IceFragment
from signaling.service import NewSession, Rights, SessionService

MAX_REMEMBERED = 1024
"""What was started and not called yet, and clients that may come back."""

Body = TypeVar("Body", bound=BaseModel)
Remembered = TypeVar("Remembered")


class _Wanted(BaseModel):
    """What an application may ask for. It may send whatever else it likes, which is passed over."""

    avatar: str | None = None
    voice: str | None = None


class _Start(BaseModel):
    transport: Literal["webrtc"] = "webrtc"
    body: _Wanted = _Wanted()


class _Offer(BaseModel):
    """``restart_pc`` need not be read: whoever names its ``pc_id`` has a new connection to the same session."""

    sdp: str
    pc_id: str | None = None
    requestData: _Wanted | None = None  # noqa: N815 - the protocol's


class _Candidate(BaseModel):
    candidate: str
    sdp_mid: str | None = None


class _Candidates(BaseModel):
    pc_id: str
    candidates: list[_Candidate]


class RtviRoutes:
    """The routes and what they answer. ``pc_id`` is the viewer's id."""

    def __init__(self, service: SessionService) -> None:
        self._service = service
        self._started: OrderedDict[str, _Wanted] = OrderedDict()
        self._dialects: OrderedDict[str, RtviDialect] = OrderedDict()  # of viewers, which may come back

    def table(self) -> list[web.RouteDef]:
        offers = ("/api/offer", "/sessions/{start}/api/offer")
        return [
            web.post("/start", self.start),
            *(web.post(path, self.offer) for path in offers),
            *(web.patch(path, self.trickle) for path in offers),
        ]

    async def start(self, request: web.Request) -> web.Response:
        """Takes no seat: only the offer does, so that nothing is held for who does not call. But says whether there is one: of an
        offer that is refused, the client shows the status alone."""
        started, wanted = self._service.new_id(), (await _read(request, _Start)).body
        if waiting.wait_of(request) is None:
            self._service.check_call(_session(request, wanted))
        _remember(self._started, started, wanted)
        ice_servers = [server.as_browsers_take_it() for server in self._service.ice_servers]
        return web.json_response({"sessionId": started, **({"iceConfig": {"iceServers": ice_servers}} if ice_servers else {})})

    async def offer(self, request: web.Request) -> web.Response:
        offer = await _read(request, _Offer)
        principal = principal_of(request)
        rights = Rights(True, "speak" in principal.scopes, "record" in principal.scopes)
        if offer.pc_id is None:
            dialect = RtviDialect()
            wanted = _session(request, offer.requestData or self._started_as(request))
            answer = await waiting.call(request, self._service, offer.sdp, wanted, rights, dialect)
        else:
            known = self._dialects.get(offer.pc_id)
            if known is None or not principal.may_touch(self._service.owner(offer.pc_id)):
                raise UnknownSession
            dialect = known
            answer = await self._service.join(offer.pc_id, offer.sdp, rights, dialect, after=dialect.known_seq)
        _remember(self._dialects, answer.viewer_id, dialect)
        return web.json_response({"sdp": answer.sdp, "type": "answer", "pc_id": answer.viewer_id})

    async def trickle(self, request: web.Request) -> web.Response:
        sent = await _read(request, _Candidates)
        lines = [(c.sdp_mid or "", c.candidate.removeprefix("candidate:")) for c in sent.candidates]
        fragment = IceFragment(candidates=tuple(line for line in lines if line[1]), complete=any(not line for _, line in lines))
        await self._service.trickle(sent.pc_id, ("*",), fragment)
        return web.json_response({"status": "success"})

    def _started_as(self, request: web.Request) -> _Wanted:
        started = request.match_info.get("start")
        if started is None:
            return _Wanted()
        if started not in self._started:
            raise UnknownSession("Nothing was started by this id, or long ago. Start anew.")
        return self._started[started]


async def _read(request: web.Request, model: type[Body]) -> Body:
    try:
        return model.model_validate_json(await read_bytes(request) or b"{}")
    except ValidationError as error:
        raise Unprocessable(explain(error), code="bad_request") from None


def _session(request: web.Request, wanted: _Wanted) -> NewSession:
    return NewSession(principal_of(request).id, avatar=wanted.avatar, voice=wanted.voice)


def _remember(memory: OrderedDict[str, Remembered], key: str, value: Remembered) -> None:
    memory[key] = value
    if len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
