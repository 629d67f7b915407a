"""The file of keys, and what a config says of who may call."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from avatar_rtc.arguments import SCOPES
from avatar_rtc.cli import main
from avatar_rtc.client import Call
from avatar_rtc.config import AuthConfig
from avatar_rtc.errors import CallError, ServerConfigError
from avatar_rtc.keys import add_key, make_auth, read_keys
from signaling import auth
from tests.support.calls import make_config, serving


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text("# Ours.")
    for name in ("web", "123"):  # a name that YAML would take for a number
        assert main(["keys", "add", name, "--scopes", "call,speak", "--file", str(path)]) == 0
    keys = capsys.readouterr().out.split()
    assert [(key.id, set[str](key.scopes)) for key in read_keys(path)] == [("web", {"call", "speak"}), ("123", {"call", "speak"})]
    assert [key.sha256 for key in read_keys(path)] == [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    text = path.read_text()
    assert text.startswith("# Ours.\n")
    assert not any(key in text for key in keys)
    assert main(["keys", "add", "web", "--file", str(path)]) == 2
    assert "already" in capsys.readouterr().err
    assert path.read_text() == text
    assert set(SCOPES) == auth.SCOPES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not YAML"),
        ("web: 1", "list of keys"),
        ("- {id: web, sha256: short, scopes: [call]}", "0.sha256"),
        (f"- {{id: web, sha256: {'a' * 64}, scopes: [fly]}}", "0.scopes"),
        (f"- {{id: web, sha256: {'a' * 64}, scopes: [call]}}\n" * 2, "appears twice"),
    ],
)
def test_what_is_no_file_of_keys(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ServerConfigError, match=message):
        read_keys(path)
    with pytest.raises(ServerConfigError):
        add_key(path, "new", ["call"])
    assert path.read_text() == text
    with pytest.raises(ServerConfigError, match="keys add"):
        read_keys(tmp_path / "missing.yaml")


def test_who_may_call_must_be_said_before_others_can(capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        make_auth(make_config(http={"host": host}))
    for host in ("0.0.0.0", "::", "", "192.0.2.7", "example.org"):
        with pytest.raises(ServerConfigError, match=r"keys add.*auth: none"):
            make_auth(make_config(http={"host": host}))
        make_auth(make_config(http={"host": host}).model_copy(update={"auth": AuthConfig()}))
    assert main(["serve", "--engine", "fake", "--port", "0", "--host", "0.0.0.0"]) == 2
    assert "--auth none" in capsys.readouterr().err


def test_a_secret_that_is_named_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys_file, secret_file = tmp_path / "keys.yaml", tmp_path / "secret"
    add_key(keys_file, "web", ["call"])

    def make(**named: object) -> None:
        make_auth(make_config().model_copy(update={"auth": AuthConfig.model_validate({"keys_file": keys_file, **named})}))

    make()
    with pytest.raises(ServerConfigError, match="secret_env: the environment variable TOKENS holds 0 characters"):
        make(secret_env="TOKENS")
    with pytest.raises(ServerConfigError, match="secret_file"):
        make(secret_file=secret_file)
    secret_file.write_text("short\n")
    with pytest.raises(ServerConfigError, match="holds 5 characters"):
        make(secret_file=secret_file)
    secret_file.write_text("0123456789abcdef" * 2)
    make(secret_file=secret_file)
    monkeypatch.setenv("TOKENS", "0123456789abcdef" * 2)
    make(secret_env="TOKENS")


async def test_a_served_config_asks_for_its_keys(tmp_path: Path) -> None:
    keys_file = tmp_path / "keys.yaml"
    key = add_key(keys_file, "web", ["call", "watch"])
    asked = make_config().model_copy(update={"auth": AuthConfig(keys_file=keys_file)})
    async with serving(config=asked) as server:
        refused = Call(server.address)
        with pytest.raises(CallError, match="unauthorized"):
            await refused.connect()
        await refused.close()
        call = Call(server.address, key)
        try:
            await call.connect()
            assert (await call.stats())["id"] == call.session_id
        finally:
            await call.close()
        assert server.registry.num_sessions == 0
