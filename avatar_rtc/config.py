"""The server's config: one YAML file, strictly checked. ``configs/server/pocket.yaml`` documents each key."""

from __future__ import annotations

import ipaddress
import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from avatar_rtc import resources
from avatar_rtc.errors import ServerConfigError
from avatar_rtc.media.encode import VideoRates
from model.yaml_text import parse_yaml
from signaling.ice import IceServer, turn_credentials

Port = Annotated[int, Field(ge=0, le=65535)]
PresetId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpConfig(_Strict):
    """Where the server listens. ``port`` 0 takes a free one. ``static_dir`` holds the page; null serves none, and without the key
    it is the program's own."""

    host: str = "127.0.0.1"
    port: Port = 8080
    allowed_origins: tuple[str, ...] = ("*",)
    static_dir: Path | None = Field(default_factory=resources.static_dir)


class AuthConfig(_Strict):
    """Who may call. ``none``, which is this without anything, asks nobody.

    Attributes:
        keys_file: API keys, as ``avatar-rtc keys add`` writes them.
        secret_env, secret_file: where the secret is that signs tokens. Without one it is drawn at each start, which no token
            outlives.
        open: paths that may be read without a key, such as ``/metrics``.
    """

    keys_file: Path | None = None
    secret_env: str | None = None
    secret_file: Path | None = None
    open: tuple[str, ...] = ("/livez", "/readyz")

    @model_validator(mode="before")
    @classmethod
    def _may_be_none(cls, value: object) -> object:
        if isinstance(value, dict) and value and value.get("keys_file") is None:
            raise ValueError("keys_file is missing: write the file of 'avatar-rtc keys add', or auth: none to let everybody in")
        if isinstance(value, str) and value != "none":
            raise ValueError(f"{value!r:.80} is no way to ask who calls; write none, or a section with a keys_file")
        return {} if value == "none" else value

    @model_validator(mode="after")
    def _one_secret(self) -> Self:
        if self.secret_env is not None and self.secret_file is not None:
            raise ValueError("secret_env and secret_file name two secrets; keep one")
        return self

    @field_validator("open")
    @classmethod
    def _are_paths(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if not path.startswith("/"):
                raise ValueError(f"{path!r} is no path; write it as /metrics")
        return paths


class LimitsConfig(_Strict):
    """What one server takes.

    Attributes:
        max_sessions: seats; a further call waits, or is answered 503. ``auto``: as many as the machine is measured to carry.
        retry_after_s: what a client is told to wait then, as long as it is not known how long calls last.
        max_queued_replies: replies that may wait in one session.
        join_timeout_s: a session that does not connect by then is ended.
        vanish_after_s: a client from which nothing arrived for so long is gone.
        grace_s: a session that came with a call is held for so long when its caller vanishes, and can be resumed.
        idle_s: a session that was made without a viewer ends when for so long it has had none, no push, and no recording in
            which something is said.
        drain_s: so long calls go on, at most, after the server was told to shut down.
        open_reply_timeout_s: a reply whose last piece does not come is closed.
        requests_per_minute: POST and PATCH of one principal, and of one address: so many at once, and so many a minute. Addresses
            of this machine, those of proxies on it, are not counted. null: as many as they like.
    """

    max_sessions: int | Literal["auto"] = "auto"
    retry_after_s: int = Field(default=5, ge=1)
    max_queued_replies: int = Field(default=32, ge=1)
    join_timeout_s: float = Field(default=10.0, gt=0)
    vanish_after_s: float = Field(default=2.5, gt=0)
    grace_s: float = Field(default=10.0, ge=0)
    idle_s: float = Field(default=300.0, gt=0)
    drain_s: float = Field(default=60.0, ge=0)
    open_reply_timeout_s: float = Field(default=30.0, gt=0)
    requests_per_minute: int | None = Field(default=1200, ge=1)

    @field_validator("max_sessions", mode="before")
    @classmethod
    def _is_number_of_calls(cls, value: object) -> object:
        if value != "auto" and (type(value) is not int or value < 1):
            raise ValueError(f"{value!r:.80} is no number of calls; write 1 or more, or auto")
        return value


class MediaConfig(_Strict):
    """Rates and buffering.

    Attributes:
        low_water_ms: the next chunk is pulled when less media than this is left.
        max_wait_ms: on an engine that is slower than real time a reply waits until it plays through. One that would wait for
            longer than this is said sentence by sentence, each of which waits.
        video_codecs: what may be negotiated; the client's order decides.
        video_delay_ms: send pictures late, for measuring lip sync. 0 in service.
    """

    low_water_ms: int = Field(default=400, ge=40, le=5000)
    max_wait_ms: int = Field(default=10_000, ge=0, le=60_000)
    video_codecs: tuple[Literal["VP8", "H264"], ...] = Field(default=("VP8", "H264"), min_length=1)
    video_target_bps: int = Field(default=800_000, ge=50_000)
    video_min_bps: int = Field(default=150_000, ge=50_000)
    video_max_bps: int = Field(default=1_500_000, ge=50_000)
    audio_bps: int = Field(default=40_000, ge=8_000, le=256_000)
    video_delay_ms: int = Field(default=0, ge=0, le=1000)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.video_min_bps <= self.video_target_bps <= self.video_max_bps:
            raise ValueError("video_min_bps <= video_target_bps <= video_max_bps does not hold; change one of the three")
        return self

    def rates(self, fps: int) -> VideoRates:
        return VideoRates(self.video_target_bps, self.video_min_bps, self.video_max_bps, fps)


class RecordingConfig(_Strict):
    """Recordings of sessions.

    Attributes:
        directory: holds them; null keeps none.
        max_minutes: a recording that lasts for so long ends.
    """

    directory: Path | None = None
    max_minutes: float = Field(default=120.0, gt=0)


class WhipConfig(_Strict):
    """Pushes to WHIP receivers. They go to public addresses, and to those in the networks of ``allow``."""

    allow: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()


class ToolConfig(_Strict):
    """A tool that the language model may call. ``parameters`` is a JSON schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}


class LlmConfig(_Strict):
    """The language model that answers what the user says: any server that has OpenAI's chat completions.

    Attributes:
        base_url: such as ``http://127.0.0.1:11434/v1``.
        api_key_env: the environment variable that holds its API key; null sends none.
        instructions: the system message.
        tools: what it may call; whoever controls the session runs them.
        extra_body: further fields of a request, such as ``temperature``.
        max_history_chars: of what it is told of the conversation, and of one message; the oldest is left out.
        max_answer_chars: an answer ends with the sentence that reaches this.
        token_timeout_s: an answer has failed if its first token, or a further one, does not come within this time.
        tool_timeout_s: so long a tool's output is waited for.
    """

    base_url: str = Field(pattern=r"^https?://[^/\s]+")
    model: str = Field(min_length=1)
    api_key_env: str | None = None
    instructions: str = (
        "You talk with somebody in a video call, and what you write is spoken. Answer in a few short sentences of plain text, "
        "without lists, markup, emoji or stage directions."
    )
    tools: tuple[ToolConfig, ...] = ()
    extra_body: dict[str, Any] = {}
    max_history_chars: int = Field(default=16_000, ge=100)
    max_answer_chars: int = Field(default=2_000, ge=1)
    token_timeout_s: float = Field(default=20.0, gt=0)
    tool_timeout_s: float = Field(default=30.0, gt=0)

    @field_validator("extra_body")
    @classmethod
    def _is_ours(cls, fields: dict[str, Any]) -> dict[str, Any]:
        for name in ("model", "messages", "stream", "tools"):
            if name in fields:
                raise ValueError(f"{name} is not set here, but by the service; remove it")
        return fields


class ListenConfig(_Strict):
    """Who speaks into a microphone is heard.

    Attributes:
        recognizer: ``local``; or the base URL of a server that has OpenAI's transcriptions, such as ``http://127.0.0.1:8000/v1``.
        model, api_key_env: of that server; null sends no key.
        timeout_s: of one request to it.
        language: that is spoken, as a code; null lets the recogniser guess.
        partials: what was said so far is recognised while it goes on, and in pauses, in which the language model is asked, too.
            Takes several requests a turn, and sooner an answer.
        barge_in: what silences the avatar: a ``voice``, recognised ``words``, or nothing (``off``); then the answer waits.
        end_of_turn_ms: so much silence ends what somebody says; twice as much where it ends in the middle of a sentence.
    """

    recognizer: str = Field(default="local", pattern=r"^(local|https?://[^/\s]+\S*)$")
    model: str = Field(default="whisper-1", min_length=1)
    api_key_env: str | None = None
    timeout_s: float = Field(default=10.0, gt=0)
    language: str | None = Field(default="en", pattern=r"^[a-z]{2,3}$")
    partials: bool = True
    barge_in: Literal["off", "voice", "words"] = "voice"
    end_of_turn_ms: int = Field(default=500, ge=200, le=5000)

    @field_validator("barge_in", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        return "off" if value is False else value  # as YAML reads it

    @model_validator(mode="after")
    def _words_are_recognized(self) -> Self:
        if self.barge_in == "words" and not self.partials:
            raise ValueError("barge_in: words needs partials; leave them on, or write voice")
        return self


class IceServerConfig(_Strict):
    """A STUN or TURN server.

    Attributes:
        username, credential: of a TURN server that has users.
        secret, secret_env: what a TURN server shares with us instead (coturn's ``static-auth-secret``), or the environment
            variable that holds it. Each client then gets a password of its own, good for ``lifetime_s``.
    """

    urls: tuple[str, ...] = Field(min_length=1)
    username: str | None = None
    credential: str | None = None
    secret: str | None = Field(default=None, min_length=1)
    secret_env: str | None = None
    lifetime_s: int = Field(default=86_400, ge=60)

    @field_validator("urls")
    @classmethod
    def _schemes(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if url.partition(":")[0] not in ("stun", "turn", "turns"):
                raise ValueError(f"{url!r} is no ICE server; write stun:host:port, turn:host:port or turns:host:port")
        return urls

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.username is None) != (self.credential is None):
            raise ValueError("username and credential belong together; write both or none")
        if sum(way is not None for way in (self.username, self.secret, self.secret_env)) > 1:
            raise ValueError("a server takes a username with a credential, or a secret, or a secret_env; keep one")
        return self

    def wire_server(self) -> IceServer:
        """The server, with credentials that are fresh now.

        Raises:
            avatar_rtc.errors.ServerConfigError: the environment lacks the secret.
        """
        secret = self.secret
        if self.secret_env is not None:
            secret = os.environ.get(self.secret_env)
            if not secret:
                raise ServerConfigError(f"ice.servers: set the environment variable {self.secret_env}, which holds the secret")
        if secret is None:
            return IceServer(self.urls, self.username, self.credential)
        return IceServer(self.urls, *turn_credentials(secret, int(time.time()) + self.lifetime_s))


class IceConfig(_Strict):
    """How peers find each other.

    Attributes:
        servers: STUN and TURN, for clients and for the server; none by default, nothing is asked on the internet.
        udp_ports: first and last port for media; null takes any.
        advertised_address: put into the answer in place of the machine's own addresses (containers, one-to-one NAT).
    """

    servers: tuple[IceServerConfig, ...] = ()
    udp_ports: tuple[Port, Port] | None = None
    advertised_address: str | None = None

    @field_validator("advertised_address")
    @classmethod
    def _is_address(cls, address: str | None) -> str | None:
        if address is not None:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise ValueError(f"{address!r} is no IP address; write the public IPv4 or IPv6 address") from None
        return address

    @field_validator("udp_ports")
    @classmethod
    def _range(cls, ports: tuple[int, int] | None) -> tuple[int, int] | None:
        if ports is not None and not 0 < ports[0] <= ports[1]:
            raise ValueError(f"{list(ports)} is no port range; write [first, last]")
        return ports

    def wire_servers(self) -> tuple[IceServer, ...]:
        """The servers, with credentials that are fresh now: to be asked for each call. Errors as in ``wire_server``."""
        return tuple(server.wire_server() for server in self.servers)


class HalloLiveConfig(_Strict):
    """The published model.

    Attributes:
        weights_dir: as ``avatar-rtc download inference --dir`` leaves it.
        devices: the transformer's first; the decoders and the text encoder use the last.
        network: sizes, see ``configs/model/hallo_live.yaml``, which null takes.
    """

    weights_dir: Path
    devices: tuple[str, ...] = Field(default=("cuda:0",), min_length=1, max_length=2)
    network: Path | None = None


class EngineConfig(_Strict):
    """What is served.

    Attributes:
        model: ``pocket``; ``hallo-live``; or ``fake`` (a frame counter and beeps, for tests and measuring).
        hallo_live: where that one is and runs.
        fake_rtf: seconds that the fake takes a second of media.
    """

    model: Literal["pocket", "hallo-live", "fake"] = "pocket"
    hallo_live: HalloLiveConfig | None = None
    fake_rtf: float = Field(default=0.0, ge=0, le=10)

    @model_validator(mode="after")
    def _is_described(self) -> Self:
        if self.model == "hallo-live" and self.hallo_live is None:
            raise ValueError("model hallo-live needs a section hallo_live, as 'avatar-rtc config hallo_live_1gpu' prints it")
        return self


class AvatarConfig(_Strict):
    """A look with its voice. ``seed`` decides what the scene leaves open; without one that is different in each call."""

    id: PresetId
    name: str
    scene: str = Field(min_length=1)
    voice: PresetId
    seed: int | None = Field(default=None, ge=0, lt=2**31)


class VoiceConfig(_Strict):
    id: PresetId
    name: str
    voice: str = Field(min_length=1)


class ServerConfig(_Strict):
    """The whole file. The first avatar is the default. Without ``auth`` everybody on this machine may call, and nobody else."""

    http: HttpConfig = HttpConfig()
    auth: AuthConfig | None = None
    engine: EngineConfig = EngineConfig()
    limits: LimitsConfig = LimitsConfig()
    media: MediaConfig = MediaConfig()
    recording: RecordingConfig = RecordingConfig()
    whip: WhipConfig = WhipConfig()
    ice: IceConfig = IceConfig()
    llm: LlmConfig | None = None
    listen: ListenConfig | None = None
    avatars: tuple[AvatarConfig, ...] = Field(min_length=1)
    voices: tuple[VoiceConfig, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _presets(self) -> Self:
        voices = {voice.id for voice in self.voices}
        for kind, presets in (("avatars", self.avatars), ("voices", self.voices)):
            ids = [preset.id for preset in presets]
            if len(set(ids)) < len(ids):
                raise ValueError(f"{kind}: an id appears twice; give each preset its own")
        for avatar in self.avatars:
            if avatar.voice not in voices:
                raise ValueError(
                    f"avatars: {avatar.id}: there is no voice {avatar.voice!r}; choose one of {', '.join(sorted(voices))}"
                )
        return self


def api_key_of(section: str, variable: str | None) -> str | None:
    """The API key that an environment variable holds; None without one.

    Args:
        section: of the config, for the message.

    Raises:
        ServerConfigError: the environment lacks it.
    """
    key = None if variable is None else os.environ.get(variable)
    if variable is not None and not key:
        raise ServerConfigError(f"{section}: set the environment variable {variable}, which holds the API key")
    return key


def load_config(path: Path) -> ServerConfig:
    """Read a config file. Relative paths in it count from the file; in one of the program's own from the working directory.

    Raises:
        ServerConfigError: it cannot be read or does not fit; the message names file, key and remedy.
    """
    try:
        text = path.read_text()
    except OSError as error:
        shipped = ", ".join(resources.server_configs())
        raise ServerConfigError(
            f"{path}: {error.strerror}. Give a readable file with --config, or one that comes with the program: {shipped}."
        ) from None
    try:
        data = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ServerConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ServerConfigError(f"{path}: a mapping of sections is expected, as 'avatar-rtc config pocket' prints it")
    try:
        config = ServerConfig.model_validate(data)
    except ValidationError as error:
        raise ServerConfigError("\n".join(_explain(path, problem) for problem in error.errors())) from None
    base = Path.cwd() if path.resolve().parent == resources.server_config("pocket").parent else path.parent
    static_dir = config.http.static_dir
    if static_dir is not None:
        static_dir = (base / static_dir).resolve()
        if not static_dir.is_dir():
            raise ServerConfigError(f"{path}: http.static_dir: there is no directory {static_dir}; correct it or write null")
        config = config.model_copy(update={"http": config.http.model_copy(update={"static_dir": static_dir})})
    directory = config.recording.directory
    if directory is not None:
        directory = (base / directory).resolve()
        if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
            raise ServerConfigError(
                f"{path}: recording.directory: there is no directory {directory} that this program may write to; "
                "make it, or write null"
            )
        config = config.model_copy(update={"recording": config.recording.model_copy(update={"directory": directory})})
    auth = config.auth
    if auth is not None:
        auth = auth.model_copy(
            update={name: base / path for name in ("keys_file", "secret_file") if (path := getattr(auth, name)) is not None}
        )
        config = config.model_copy(update={"auth": auth})
    published = config.engine.hallo_live
    if published is not None:
        network = published.network and base / published.network
        published = published.model_copy(update={"weights_dir": base / published.weights_dir, "network": network})
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"hallo_live": published})})
    return config


def _explain(path: Path, problem: object) -> str:
    assert isinstance(problem, dict)
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section: object = ServerConfig
        for part in problem["loc"][:-1]:
            fields = getattr(section, "model_fields", {})
            section = fields[part].annotation if part in fields else None
        known = ", ".join(getattr(section, "model_fields", {}))
        remedy = f"known keys here: {known}" if known else "remove it"
        return f"{path}: {where}: unknown key; {remedy}"
    message = problem["msg"].removeprefix("Value error, ")
    value = f" (got {problem['input']!r:.80})" if problem["type"] not in ("missing", "value_error") else ""
    return f"{path}: {where or 'file'}: {message}{value}"
