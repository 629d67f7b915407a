"""Reading what a request carries."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel, ValidationError

from signaling.errors import BadRequest, RequestTimeout, WrongType

BODY_TIMEOUT_S = 10.0
_UNREADABLE = (AssertionError, LookupError, RuntimeError, ValueError, HttpProcessingError, web.RequestPayloadError)
"""What aiohttp's parser of forms raises of one that it cannot read."""


async def read_bytes(request: web.Request) -> bytes:
    """The whole body.

    Raises:
        signaling.errors.SignalingError: it is encoded, did not come, or cannot be read.
    """
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if coding != "identity":
        raise WrongType(f"Send the body as it is, without Content-Encoding {coding:.40}.")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise _late() from None
    except web.RequestPayloadError as error:
        raise BadRequest(f"The body cannot be read: {error}.") from None


async def read_form(request: web.Request) -> dict[str, str]:
    """The parts of a form as texts, by their names. Errors as in ``read_bytes``."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            form = await request.post()
        parts = {name: part.file.read() if isinstance(part, web.FileField) else part for name, part in form.items()}
        return {name: part if isinstance(part, str) else bytes(part).decode() for name, part in parts.items()}
    except TimeoutError:
        raise _late() from None
    except _UNREADABLE:
        raise BadRequest("The form cannot be read. Its parts are texts, each with a name.") from None


async def read_text(request: web.Request) -> str:
    """The same as text. Errors as in ``read_bytes``."""
    try:
        return (await read_bytes(request)).decode()
    except UnicodeDecodeError:
        raise BadRequest("The body is not UTF-8 text.") from None


def _late() -> RequestTimeout:
    return RequestTimeout(f"The body did not come within {BODY_TIMEOUT_S:.0f} s. Send it again.")


def explain(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """The first thing in a body that does not fit, and which fields ``model`` has."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "body"
    if first["type"] == "extra_forbidden":
        known = f" Known: {', '.join(model.model_fields)}." if model is not None and len(first["loc"]) == 1 else ""
        return f"There is no field {where!r:.80}.{known}"
    return f"{where:.80}: {first['msg']}."
