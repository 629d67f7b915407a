"""One line an event, with the session's id. INFO tells the story of a session in about six lines; what repeats is a metric."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from aiohttp.http_exceptions import HttpProcessingError


class SessionLog(logging.LoggerAdapter[logging.Logger]):
    """Puts the first digits of a session's id before each line."""

    def __init__(self, session_id: str) -> None:
        super().__init__(logging.getLogger("avatar_rtc.session"), {})
        self._prefix = session_id.rpartition(".")[2][:8]

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{self._prefix} {msg}", kwargs


def set_up_logs(level: str = "INFO") -> None:
    """Log to standard error. The libraries below us only warn: their INFO is a line for each ICE check and request."""
    logging.basicConfig(
        level=level, stream=sys.stderr, format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s", datefmt="%H:%M:%S"
    )
    for name in ("aioice", "aiortc", "aiohttp.access", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(shorten_what_is_no_http)


def shorten_what_is_no_http(record: logging.LogRecord) -> bool:
    """A filter: what is no HTTP, from whoever looks for open ports, costs a line and not a traceback. It is answered 400."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.msg, record.args, record.exc_info = f"no HTTP: {type(error).__name__}", (), None
        record.levelno, record.levelname = logging.INFO, "INFO"
    return logging.getLogger(record.name).isEnabledFor(record.levelno)
