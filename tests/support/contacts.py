"""Counts and refuses what a process, and every process that it starts, wants of other machines.

Python's audit events tell of each socket and each name before anything is sent. The hook is set where Python starts, by a
``sitecustomize`` on PYTHONPATH, so that children have it, too.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import ifaddr

HOOK = """
import ipaddress, json, os, sys

OURS = set(json.loads(os.environ["CONTACTS_OURS"]))
NAMES = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.gethostbyaddr": 0}
ADDRESSES = {"socket.connect": 1, "socket.sendto": 1, "socket.sendmsg": 1}

def is_near(host):
    host = host.decode() if isinstance(host, bytes) else host
    if host in (None, "", "localhost") or host in OURS:
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified or str(address) in OURS

def refuse(event, arguments):
    index = NAMES.get(event, ADDRESSES.get(event))
    if index is None:
        return
    target = arguments[index]
    if event in ADDRESSES:
        if not isinstance(target, tuple):
            return  # a socket of this machine
        target = target[0]
    if not is_near(target):
        with open(os.environ["CONTACTS_LOG"], "a") as log:
            log.write(json.dumps([event, str(target), " ".join(sys.argv)]) + "\\n")
        raise OSError(f"the test refuses to let {event} reach {target}")

sys.addaudithook(refuse)
"""


@dataclass(frozen=True)
class Contacts:
    """What was counted. ``environment`` is what a process must be started with."""

    log: Path
    environment: dict[str, str]

    def outside(self) -> list[tuple[str, str, str]]:
        """The event, the machine that was wanted, and the command that wanted it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(event, target, command) for event, target, command in map(json.loads, lines)]


def counted(directory: Path) -> Contacts:
    """Contacts of processes with this environment. Addresses of this machine's own are no others': media go to them in a call."""
    (directory / "sitecustomize.py").write_text(HOOK)
    log = directory / "contacts.log"
    ours = [
        address.ip if isinstance(address.ip, str) else address.ip[0] for card in ifaddr.get_adapters() for address in card.ips
    ]
    path = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "CONTACTS_LOG": str(log), "CONTACTS_OURS": json.dumps(ours)}
    return Contacts(log, environment)


def command_path() -> str:
    return str(Path(sys.executable).parent / "avatar-rtc")
