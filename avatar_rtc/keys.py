"""API keys in their file, and what of the config says who may call."""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from avatar_rtc.config import ServerConfig
from avatar_rtc.errors import ServerConfigError
from model.yaml_text import parse_yaml
from signaling.auth import ID_PATTERN, ApiKey, Auth, Scope, new_api_key

MIN_SECRET_CHARS = 32
"""HMAC-SHA256 is as strong as its secret, up to 32 bytes (RFC 7518, section 3.2)."""


class _Entry(BaseModel):
    """A key in the file."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=ID_PATTERN)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]


_ENTRIES = TypeAdapter(list[_Entry])


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file: a YAML list of ``{id, sha256, scopes}``.

    Raises:
        avatar_rtc.errors.ServerConfigError: it cannot be read or is no such file.
    """
    try:
        return _parse(path, path.read_text())
    except OSError as error:
        raise ServerConfigError(f"{path}: {error.strerror}. Make a key with 'avatar-rtc keys add NAME --file {path}'.") from None


def add_key(path: Path, key_id: str, scopes: Collection[Scope]) -> str:
    """Make a key, and write its hash to the end of a file, which is made if there is none. Returns the key.

    Raises:
        avatar_rtc.errors.ServerConfigError: the name or the file cannot be used; the file is as it was.
        OSError: the file cannot be written.
    """
    if re.match(ID_PATTERN, key_id) is None:
        raise ServerConfigError(f"{key_id!r:.80} is no name for a key: write letters, digits, dots, dashes and underscores")
    text = path.read_text() if path.exists() else ""
    if any(key.id == key_id for key in _parse(path, text)):
        raise ServerConfigError(f"{path}: there is a key {key_id!r} already. Choose another name, or delete its line first.")
    key, kept = new_api_key(key_id, scopes)
    # As text, so that comments in the file stay.
    text += "\n" if text and not text.endswith("\n") else ""
    text += f"- {{id: {key_id!r}, sha256: {kept.sha256!r}, scopes: [{', '.join(sorted(kept.scopes))}]}}\n"
    _parse(path, text)
    path.write_text(text)
    return key


def _parse(path: Path, text: str) -> list[ApiKey]:
    try:
        entries = _ENTRIES.validate_python(parse_yaml(text) or [])
    except yaml.YAMLError as error:
        raise ServerConfigError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "file"
        raise ServerConfigError(
            f"{path}: {where}: {problem['msg']}. It is a list of keys, as 'avatar-rtc keys add' writes them."
        ) from None
    ids = [entry.id for entry in entries]
    twice = next((key_id for key_id in ids if ids.count(key_id) > 1), None)
    if twice is not None:
        raise ServerConfigError(f"{path}: the id {twice!r} appears twice; give each key its own")
    return [ApiKey(entry.id, entry.sha256, entry.scopes) for entry in entries]


def make_auth(config: ServerConfig) -> Auth:
    """What a config says of who may call.

    Raises:
        avatar_rtc.errors.ServerConfigError: it says nothing, and others than this machine could call; or a file or a secret that
            it names cannot be used.
    """
    auth, host = config.auth, config.http.host
    if auth is None and not _is_loopback(host):
        raise ServerConfigError(
            f"http.host: at {host or 'all addresses'} others can reach this server, and the config does not say who may call. "
            "Ask for keys ('avatar-rtc keys add me' makes one; then auth: {keys_file: keys.yaml}, or --auth keys.yaml), "
            "or let everybody in (auth: none, or --auth none)."
        )
    if auth is None or auth.keys_file is None:
        return Auth()
    secret = secrets.token_hex(MIN_SECRET_CHARS)
    if auth.secret_env is not None:
        secret = _checked(os.environ.get(auth.secret_env, ""), f"auth.secret_env: the environment variable {auth.secret_env}")
    elif auth.secret_file is not None:
        try:
            secret = _checked(auth.secret_file.read_text().strip(), f"auth.secret_file: {auth.secret_file}")
        except (OSError, UnicodeDecodeError) as error:
            raise ServerConfigError(f"auth.secret_file: {auth.secret_file}: {error}") from None
    return Auth(read_keys(auth.keys_file), secret=secret, open_paths=auth.open)


def _checked(secret: str, what: str) -> str:
    if len(secret) < MIN_SECRET_CHARS:
        raise ServerConfigError(
            f"{what} holds {len(secret)} characters, and a secret has at least {MIN_SECRET_CHARS}: "
            "'openssl rand -hex 32' makes one."
        )
    return secret


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
