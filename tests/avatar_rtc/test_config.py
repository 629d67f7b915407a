from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml

from avatar_rtc import resources
from avatar_rtc.config import IceConfig, IceServerConfig, ListenConfig, LlmConfig, ServerConfig, load_config
from avatar_rtc.errors import ServerConfigError
from signaling.ice import turn_credentials

SHIPPED = resources.server_config("pocket")


def test_the_shipped_file_writes_out_the_defaults() -> None:
    config = load_config(SHIPPED)
    data = yaml.safe_load(SHIPPED.read_text())
    defaults = ServerConfig(avatars=config.avatars, voices=config.voices)
    assert config.http.static_dir == resources.static_dir()
    for section in ("http", "engine", "limits", "media", "ice"):
        written = set(data[section])
        # The page that comes with the program is named by no path.
        shown = written | ({"static_dir"} if section == "http" else set())
        assert shown == set(type(getattr(config, section)).model_fields), f"{section}: every key is shown"
        for key in written:
            assert getattr(getattr(config, section), key) == getattr(getattr(defaults, section), key), f"{section}.{key}"
    assert data["auth"] is None


def test_what_the_page_on_language_models_shows_is_a_config_and_all_of_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "llm.md").read_text()
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    servers = [block["llm"] for block in blocks if "llm" in block]
    tools = next(block for block in blocks if "llm" not in block)
    assert len(servers) == 3
    for server in servers:
        LlmConfig.model_validate(server | tools)
    table = re.findall(r"^\| (`[^|]*`) \|", text.partition("## All keys")[2], re.MULTILINE)
    assert {key for row in table for key in re.findall(r"`(\w+)`", row)} == set(LlmConfig.model_fields)


def test_what_the_page_on_listening_shows_is_a_config_and_all_of_it() -> None:
    text = (Path(__file__).parents[2] / "docs" / "listening.md").read_text()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        ListenConfig.model_validate(yaml.safe_load(block)["listen"])
    table = re.findall(r"^\| (`[^|]*`) \|", text.partition("## All keys")[2], re.MULTILINE)
    assert {key for row in table for key in re.findall(r"`(\w+)`", row)} == set(ListenConfig.model_fields)
    assert ListenConfig.model_validate(yaml.safe_load("barge_in: off")).barge_in == "off"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": {"max_session": 3}}, r"limits.max_session: unknown key; known keys here: max_sessions"),
        ({"colour": 1}, r"colour: unknown key; known keys here: http"),
        ({"limits": {"max_sessions": 0}}, r"limits.max_sessions: 0 is no number of calls; write 1 or more, or auto"),
        ({"limits": {"max_sessions": "many"}}, r"limits.max_sessions: 'many' is no number of calls"),
        ({"media": {"video_min_bps": 900_000}}, r"media: .*does not hold; change one"),
        ({"ice": {"servers": [{"urls": ["http://x"]}]}}, r"write stun:host:port"),
        ({"ice": {"servers": [{"urls": ["turn:x"], "username": "u"}]}}, r"username and credential belong together"),
        ({"ice": {"servers": [{"urls": ["turn:x"], "secret": "s", "secret_env": "S"}]}}, r"ice.servers.0: .*keep one"),
        ({"ice": {"udp_ports": [6000, 5000]}}, r"write \[first, last\]"),
        ({"ice": {"advertised_address": "example.org"}}, r"write the public IPv4"),
        ({"auth": {"open": ["/metrics"]}}, r"auth: keys_file is missing: .* or auth: none"),
        ({"auth": "nobody"}, r"auth: 'nobody' is no way to ask who calls; write none"),
        ({"auth": {"keys_file": "k.yaml", "open": ["metrics"]}}, r"auth.open: 'metrics' is no path; write it as /metrics"),
        (
            {"auth": {"keys_file": "k.yaml", "secret_env": "A", "secret_file": "b"}},
            r"auth: secret_env .*keep one",
        ),
        ({"llm": {"base_url": "localhost:11434", "model": "m"}}, r"llm.base_url: .*\^https"),
        ({"llm": {"base_url": "http://localhost/v1"}}, r"llm.model: Field required"),
        ({"llm": {"base_url": "http://localhost/v1", "model": "m", "api_key": "sk-1"}}, r"llm.api_key: unknown key"),
        (
            {"llm": {"base_url": "http://localhost/v1", "model": "m", "extra_body": {"stream": False}}},
            r"llm.extra_body: stream is not set here",
        ),
        ({"listen": {"recognizer": "whisper"}}, r"listen.recognizer: .*local\|https"),
        ({"listen": {"barge_in": "words", "partials": False}}, r"listen: barge_in: words needs partials"),
        ({"http": {"static_dir": "nowhere"}}, r"http.static_dir: there is no directory"),
        ({"avatars": [{"id": "a", "name": "A", "scene": "x", "voice": "none"}]}, r"there is no voice 'none'; choose one of"),
    ],
)
def test_errors_name_file_key_and_remedy(tmp_path: Path, change: dict[str, object], message: str) -> None:
    data = yaml.safe_load(SHIPPED.read_text())
    for section, values in change.items():
        if isinstance(values, dict) and data[section] is not None:
            data[section].update(values)
        else:
            data[section] = values
    if "static_dir" not in str(change):
        data["http"]["static_dir"] = None
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(ServerConfigError, match=message) as caught:
        load_config(path)
    assert str(caught.value).startswith(str(path))


def test_a_section_that_stands_twice_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(SHIPPED.read_text() + "llm: {base_url: 'http://localhost/v1', model: m}\n")
    with pytest.raises(ServerConfigError, match=r"'llm' stands in line \d+ already: take one of them out(?s:.*), line \d+"):
        load_config(path)


def test_a_turn_server_that_shares_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    server = IceServerConfig(urls=("turn:t.example:3478",), secret_env="TURN_SECRET", lifetime_s=600)
    ice = IceConfig(servers=(server, IceServerConfig(urls=("turn:u.example",), username="u", credential="p")))
    with pytest.raises(ServerConfigError, match="set the environment variable TURN_SECRET"):
        ice.wire_servers()
    monkeypatch.setenv("TURN_SECRET", "north")
    now_s = 1_700_000_000 - 600
    monkeypatch.setattr(time, "time", lambda: float(now_s))
    first, fixed = ice.wire_servers()
    assert (first.username, first.credential) == turn_credentials("north", 1_700_000_000)
    assert (fixed.username, fixed.credential) == ("u", "p")
    now_s += 60
    assert ice.wire_servers()[0].username == "1700000060", "fresh each time"


@pytest.mark.parametrize("text", ["{", "- 1", "http: 3"])
def test_what_is_no_config(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ServerConfigError, match=r"mine\.yaml"):
        load_config(path)
    with pytest.raises(ServerConfigError, match="--config"):
        load_config(tmp_path / "missing.yaml")


def test_the_published_model_needs_to_know_where_its_weights_are(tmp_path: Path) -> None:
    for name in ("hallo_live_1gpu", "hallo_live_2gpu"):
        published = load_config(resources.server_config(name)).engine.hallo_live
        assert published is not None
        assert published.weights_dir.is_absolute()
    data = yaml.safe_load(SHIPPED.read_text())
    data["engine"] = {"model": "hallo-live"}
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ServerConfigError, match="needs a section hallo_live"):
        load_config(tmp_path / "server.yaml")
