"""What systemd is told of a service of ``Type=notify``: sd_notify(3), which is one datagram."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(*assignments: str) -> None:
    """Tell the service manager, such as ``READY=1``; nothing where none has started us. Never raises: nobody depends on it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        # A name that begins with @ is one without a file.
        manager.sendto("\n".join(assignments).encode(), f"\0{address[1:]}" if address.startswith("@") else address)
