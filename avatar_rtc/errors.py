"""Errors of the service. Those of the model are in model.errors, those of the wire in signaling.errors."""

from __future__ import annotations


class ImageError(ValueError):
    """A picture that a stream cannot begin with; the message says why and what to send."""

    code = "bad_image"


class ServerConfigError(ValueError):
    """A server config cannot be used. The message names the file, the key and the remedy."""

    code = "bad_config"


class ClusterError(RuntimeError):
    """What makes nodes a cluster has ended. The message says what, and what to do."""

    code = "cluster_failed"


class CallError(RuntimeError):
    """A headless call did not come about or broke off. The message says why and what to do.

    Args:
        code: the server's, if it refused.
    """

    def __init__(self, message: str, code: str = "call_failed") -> None:
        super().__init__(message)
        self.code = code


class NotReadyError(CallError):
    """The server cannot take a call yet, but perhaps soon.

    Args:
        patience_s: how long it is worth trying again.
    """

    def __init__(self, message: str, patience_s: float, code: str = "call_failed") -> None:
        super().__init__(message, code)
        self.patience_s = patience_s


class BatchError(ValueError):
    """A file of prompts or a directory of films cannot be used. The message says why and what to do."""

    code = "bad_batch"


class DownloadError(RuntimeError):
    """Published weights could not be fetched. The message says why and what to do; what was fetched stays."""

    code = "download_failed"
