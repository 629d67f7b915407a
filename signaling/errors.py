"""What HTTP answers when it cannot do what was asked: RFC 9457 problems with a stable ``code``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class SignalingError(Exception):
    """Base of all answers that are not a success.

    Attributes:
        status: HTTP status.
        code: stable, for programs.
        title: the kind of problem, the same for each ``code``.
        detail: what happened and what to do, for people.
        headers: headers of the answer.
        members: what else the problem says.
    """

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(self, detail: str, *, code: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or type(self).code
        self.headers = dict(headers or {})
        self.members: dict[str, object] = {}

    def to_json(self) -> dict[str, object]:
        problem = {"type": "about:blank", "title": self.title, "status": self.status, "code": self.code, "detail": self.detail}
        return {**problem, **self.members}


class BadOffer(SignalingError):
    status, code, title = 400, "bad_sdp", "The SDP offer cannot be used"


class BadRequest(SignalingError):
    status, code, title = 400, "bad_request", "The request cannot be understood"


class Unauthorized(SignalingError):
    """Who asks is not known."""

    status, code, title = 401, "unauthorized", "Who asks is not known"

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail, code=code, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(SignalingError):
    status, code, title = 403, "missing_scope", "Not allowed"


class UnknownAvatar(SignalingError):
    status, code, title = 404, "unknown_avatar", "No such avatar"


class UnknownSession(SignalingError):
    """Also of a session that is somebody else's: its answer is the same, so that nothing is revealed."""

    status, code, title = 404, "unknown_session", "No such session"

    def __init__(self, detail: str = "There is no such session, or it has ended. Start a new one.") -> None:
        super().__init__(detail)


class NodeLost(SignalingError):
    """The machine that had the session has gone, and the session with it."""

    status, code, title = 404, "node_lost", "The session is lost"

    def __init__(self, detail: str = "The node that had this session does not answer any more. Call again.") -> None:
        super().__init__(detail)


class SessionMoves(SignalingError):
    """The session goes on at another node; front doors know what to do.

    Args:
        node: where it is; None while it is nowhere.
    """

    status, code, title = 503, "session_moves", "The session moves"

    def __init__(self, node: str | None) -> None:
        super().__init__("The session goes on at another node. Try again in 1 s.", headers={"Retry-After": "1"})
        self.members = {} if node is None else {"node": node}


class NotFound(SignalingError):
    status, code, title = 404, "not_found", "Nothing here"


class MethodNotAllowed(SignalingError):
    status, code, title = 405, "method_not_allowed", "Method not allowed"


class RequestTimeout(SignalingError):
    status, code, title = 408, "request_timeout", "The request did not come in time"


class Conflict(SignalingError):
    status, code, title = 409, "conflict", "Something else is in the way"


class StaleETag(SignalingError):
    status, code, title = 412, "stale_etag", "The ICE session is another one by now"


class BodyTooLarge(SignalingError):
    status, code, title = 413, "message_too_large", "The body is too large"


class WrongType(SignalingError):
    status, code, title = 415, "unsupported_media_type", "Wrong content type"


class Unprocessable(SignalingError):
    status, code, title = 422, "unprocessable", "Understood, but not possible"


class TooManyRequests(SignalingError):
    """``retry_after_s`` is the client's waiting time."""

    status, code, title = 429, "too_many_requests", "Too many requests"

    def __init__(self, detail: str, *, retry_after_s: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class Unavailable(SignalingError):
    """Full, draining, or without an engine. ``retry_after_s`` is the client's waiting time, ``members`` what else it is told."""

    status, code, title = 503, "unavailable", "Not available now"

    def __init__(
        self, detail: str, *, code: str, retry_after_s: int, members: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        super().__init__(detail, code=code, headers={"Retry-After": str(retry_after_s)})
        self.members = dict(members)
