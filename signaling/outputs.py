"""Outputs of a session over HTTP: where else it goes than to its viewers, and the files that recordings leave."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from signaling.bodies import explain, read_bytes
from signaling.errors import Unprocessable
from signaling.service import NewOutput, NewPush, NewRecording, SessionService

MEDIA_TYPES = {".mp4": "video/mp4", ".webm": "video/webm"}


class _RecordingBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["recording"]

    def wanted(self) -> NewOutput:
        return NewRecording()


class _WhipBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["whip"]
    url: str = Field(min_length=1, max_length=2048)
    token: str | None = Field(default=None, pattern=r"^[\x21-\x7e]{1,8192}$")

    def wanted(self) -> NewOutput:
        return NewPush(self.url, self.token)


OutputBody = Annotated[_RecordingBody | _WhipBody, Field(discriminator="type")]
"""The body of ``POST /v1/sessions/{id}/outputs``."""
_BODIES: TypeAdapter[_RecordingBody | _WhipBody] = TypeAdapter(OutputBody)


def with_urls(session_id: str, output: dict[str, Any]) -> dict[str, Any]:
    """An output as it is told, with where it is found."""
    urls = {"url": f"/v1/sessions/{session_id}/outputs/{output['id']}"}
    if output.get("file") is not None:
        urls["file_url"] = file_url(session_id, output["file"])
    return {**output, **urls}


def file_url(session_id: str, file_name: str) -> str:
    """Where the file of a recording is downloaded."""
    return f"/v1/sessions/{session_id}/recordings/{file_name}"


class OutputRoutes:
    """The routes and what they answer."""

    def __init__(self, service: SessionService) -> None:
        self._service = service

    def table(self) -> list[web.RouteDef]:
        place = "/v1/sessions/{id}/outputs/{output}"
        return [
            web.post("/v1/sessions/{id}/outputs", self.add),
            web.get(place, self.get),
            web.delete(place, self.end),
            web.get("/v1/sessions/{id}/recordings/{file}", self.download),
        ]

    async def add(self, request: web.Request) -> web.Response:
        try:
            wanted = _BODIES.validate_json(await read_bytes(request))
        except ValidationError as error:
            raise Unprocessable(explain(error), code="bad_request") from None
        session_id = request.match_info["id"]
        output = with_urls(session_id, await self._service.add_output(session_id, wanted.wanted()))
        return web.json_response(output, status=201, headers={hdrs.LOCATION: output["url"]})

    async def get(self, request: web.Request) -> web.Response:
        session_id, output_id = request.match_info["id"], request.match_info["output"]
        return web.json_response(with_urls(session_id, self._service.output(session_id, output_id)))

    async def end(self, request: web.Request) -> web.Response:
        session_id, output_id = request.match_info["id"], request.match_info["output"]
        return web.json_response(with_urls(session_id, await self._service.end_output(session_id, output_id)))

    async def download(self, request: web.Request) -> web.FileResponse:
        """With ranges, by which browsers seek."""
        path = self._service.recording(request.match_info["id"], request.match_info["file"])
        response = web.FileResponse(path, headers={hdrs.CACHE_CONTROL: "no-cache"})
        response.content_type = MEDIA_TYPES[path.suffix]
        return response
