"""The command line: thin, and quick to show its help, because everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import functools
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from avatar_rtc import extras, resources, train
from avatar_rtc.arguments import Command, joined, make_parser
from model.chunk import StreamSettings
from model.errors import ModelError
from model.stream import Model

if TYPE_CHECKING:
    from avatar_rtc.config import EngineConfig, ServerConfig


class UsageError(Exception):
    """The command cannot do what was asked; the message is one line that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Its exit code: 0; 2 for what the user can mend; 1 for a call or an engine that failed, a check not passed, or a bug.
    """
    options = make_parser(COMMANDS).parse_args(joined(sys.argv[1:] if arguments is None else arguments))
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = options.carry_out(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if options.debug:
            raise
        code, message = _explain(error)
        print(f"avatar-rtc {options.command}: {message}", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
    return code


def _terminate(number: int, frame: object) -> NoReturn:
    """Like Ctrl-C: whatever is being written is finished or removed."""
    raise SystemExit(128 + number)


def _explain(error: Exception) -> tuple[int, str]:
    """Exit code and the line to print."""
    from avatar_rtc.engine.api import EngineFailure
    from avatar_rtc.errors import BatchError, CallError, ClusterError, DownloadError, ImageError, ServerConfigError

    if isinstance(error, (UsageError, ModelError, ServerConfigError, BatchError, DownloadError, ImageError, OSError)):
        return 2, str(error)
    if isinstance(error, ModuleNotFoundError) and (words := extras.remedy(error)) is not None:
        return 2, words
    if isinstance(error, (CallError, ClusterError, EngineFailure)):
        return 1, str(error)
    return 1, f"{type(error).__name__}: {error} (this is a bug; --debug shows where)"


def _server_config(options: argparse.Namespace) -> ServerConfig:
    """The config of a server, with what the command says in its place."""
    from avatar_rtc.config import AuthConfig, ListenConfig, load_config

    config = load_config(options.config or resources.server_config("pocket"))
    http = {name: value for name in ("host", "port") if (value := getattr(options, name)) is not None}
    config = config.model_copy(update={"http": config.http.model_copy(update=http)})
    if options.auth is not None:
        auth = AuthConfig() if options.auth == "none" else AuthConfig(keys_file=Path(options.auth))
        config = config.model_copy(update={"auth": auth})
    if options.engine is not None:
        config = config.model_copy(update={"engine": config.engine.model_copy(update={"model": options.engine})})
    if options.listen and config.listen is None:
        config = config.model_copy(update={"listen": ListenConfig()})
    return config


@contextlib.contextmanager
def _port_of(config: ServerConfig) -> Iterator[None]:
    """A port that is taken is something that one can mend."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        host, port = config.http.host, config.http.port
        raise UsageError(f"port {port} of {host} is taken: end the program that has it, or choose another with --port") from None


def _serve(options: argparse.Namespace) -> int:
    from avatar_rtc.app import serve
    from avatar_rtc.logs import set_up_logs

    set_up_logs()
    config = _server_config(options)
    with _port_of(config):
        asyncio.run(serve(config, on_ready=_say_ready))
    return 0


def _cluster_up(options: argparse.Namespace) -> int:
    from avatar_rtc.cluster.rays import Place, default_name
    from avatar_rtc.cluster.up import up
    from avatar_rtc.logs import set_up_logs

    set_up_logs()
    config = _server_config(options)

    def say_ready(address: str, rtf: float, join: str) -> None:
        print(f"other machines join with: {join}", flush=True)
        _say_ready(address, rtf)

    place = Place(options.address, options.name or default_name(), options.ip, options.ray_port)
    with _port_of(config):
        up(config, place, say_ready)
    return 0


def _say_ready(address: str, rtf: float) -> None:
    from avatar_rtc.rtf import in_words, keeps_up

    print(f"avatar-rtc is ready: open {address}", flush=True)
    print(in_words(rtf) + ("" if keeps_up(rtf) else " 'avatar-rtc doctor' says what helps."), flush=True)


def _say(options: argparse.Namespace) -> int:
    from avatar_rtc.say import Summary, say

    if not options.text and not options.ask:
        raise UsageError("there is nothing to say: give a line, or a recording with --ask")
    for text in options.text:
        if re.fullmatch(r"https?://\S+", text.strip()):
            raise UsageError(f"{text} is an address, not a line: a call has one server, and one command makes one call")
    captions = sys.stderr if options.json else sys.stdout

    async def call() -> Summary:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await say(
            options.url,
            options.text,
            record=options.record,
            key=options.key or os.environ.get("AVATAR_RTC_KEY"),
            avatar=options.avatar,
            voice=options.voice,
            ask=options.ask,
            on_caption=lambda text: print(text, file=captions, flush=True),
            on_wait=lambda text: print(text, file=sys.stderr, flush=True),
        )

    try:
        report = asyncio.run(call())
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    print(json.dumps(report.as_dict()) if options.json else report.summary())
    return 0


def _load(options: argparse.Namespace) -> int:
    from avatar_rtc.load import SCRIPT, load, read_script

    script = SCRIPT if options.script is None else read_script(options.script)
    if not any(isinstance(step, str) for step in script):
        raise UsageError(f"{options.script} has nothing to say: write a line of text on each of its lines")
    report = asyncio.run(
        load(
            options.url,
            options.calls,
            ramp_s=options.ramp,
            script=script,
            key=options.key or os.environ.get("AVATAR_RTC_KEY"),
            wait_s=options.wait,
            on_progress=lambda text: print(text, file=sys.stderr, flush=True),
        )
    )
    print(json.dumps(report.as_dict()) if options.json else report.table())
    return 0 if report.is_good else 1


def _generate(options: argparse.Namespace) -> int:
    from avatar_rtc.config import load_config
    from avatar_rtc.generate import generate
    from avatar_rtc.images import read_image
    from avatar_rtc.presets import seed_of
    from model.text.prompt import parse_prompt

    if (options.prompt is None) == (options.prompts is None):
        raise UsageError("give a prompt, or a file of them with --prompts")
    presets = load_config(options.config or resources.server_config("pocket"))
    engine = presets.engine if options.engine is None else presets.engine.model_copy(update={"model": options.engine})
    avatar = presets.avatars[0]
    voices = {voice.id: voice.voice for voice in presets.voices}
    scene = options.scene or avatar.scene
    seed = seed_of(presets, scene, otherwise=0) if options.prompts is None else 0  # films of many are named by their seeds
    settings = StreamSettings(
        scene=scene,
        voice=voices.get(options.voice, options.voice) or voices[avatar.voice],
        seed=seed if options.seed is None else options.seed,
        image=None if options.image is None else read_image(options.image),
    )
    if options.prompts is not None:
        return _generate_all(options, engine, settings)
    if options.num_samples != 1:
        raise UsageError("--num-samples goes with --prompts: write the prompt into a CSV file under the heading text_prompt")
    parse_prompt(options.prompt)
    if not options.output.parent.is_dir():
        raise UsageError(f"there is no directory {options.output.parent}: make it, or choose another with -o")
    show = sys.stderr.isatty()

    def on_progress(film_s: float, work_s: float) -> None:
        if show:
            print(f"\r{film_s:6.1f} s of film, {film_s / work_s:.1f}x real time ", end="", file=sys.stderr, flush=True)

    model, lead_chunks = _load_model(engine, show), _lead_chunks(engine)
    film = generate(model, options.prompt, settings, options.output, on_progress, lead_chunks=lead_chunks)
    if show:
        print(file=sys.stderr)
    print(f"{options.output}: {film.duration_s:.1f} s of film in {film.compute_s:.1f} s, real-time factor {film.rtf:.2f}")
    return 0


def _generate_all(options: argparse.Namespace, engine: EngineConfig, settings: StreamSettings) -> int:
    from tqdm import tqdm

    from avatar_rtc.batch import Share, generate_all, on_our_gpu
    from model.text.prompt_table import read_prompts

    share = Share.of_environment(os.environ)
    rows = read_prompts(options.prompts)
    options.output.mkdir(parents=True, exist_ok=True)
    engine = on_our_gpu(engine)
    # One bar, that of the first process: the others have as much to do.
    shown = share.rank == 0 and sys.stderr.isatty()
    model, lead_chunks = _load_model(engine, shown), _lead_chunks(engine)
    num_films = len(rows[share.rank :: share.world]) * options.num_samples
    with tqdm(total=num_films, unit="film", disable=not shown) as bar:

        def on_progress(film_s: float, work_s: float) -> None:
            bar.set_postfix_str(f"{film_s:.1f} s of this one, {film_s / work_s:.1f}x real time")

        def on_film(line: str) -> None:
            bar.write(line)
            bar.update()

        outcome = generate_all(
            model, rows, settings, options.output, options.num_samples, share, on_progress, on_film, lead_chunks=lead_chunks
        )
    print(f"{options.output}: {outcome.summary()}")
    return 2 if outcome.refused else 0


def _lead_chunks(engine: EngineConfig) -> int:
    """The published model's clips begin with speech; what it was not trained on is not put before it."""
    from avatar_rtc.generate import LEAD_CHUNKS

    return 0 if engine.model == "hallo-live" else LEAD_CHUNKS


def _load_model(engine: EngineConfig, show: bool) -> Model:
    """The model that makes films; ``show`` whether to say how that goes."""
    from avatar_rtc.models import model_loader

    def on_load(message: str) -> None:
        if show:
            print(message, file=sys.stderr)

    on_load("loading the model")
    return model_loader(engine)(on_load)


def _download(options: argparse.Namespace) -> int:
    from avatar_rtc import download

    what = download.plan(options.group, options.dir)
    print(what.table())
    if what.wanted and not options.yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing was fetched: say --yes if that is what you want")
        if input("Fetch? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing was fetched.")
            return 1
    try:
        download.carry_out(what, functools.partial(print, flush=True))
    except KeyboardInterrupt:
        print("\nInterrupted. What has come stays: the same command goes on with it.", file=sys.stderr)
        return 130
    print(f"Everything for {options.group} is in {options.dir}.")
    return 0


def _pronounce(options: argparse.Namespace) -> int:
    from avatar_rtc import pronounce

    if (options.text is None) == (options.piece is None):
        raise UsageError("give a text, or pieces of one with --piece")
    return pronounce.run(options)


def _doctor(options: argparse.Namespace) -> int:
    from avatar_rtc import doctor

    return 0 if doctor.report(doctor.examine(options.port), functools.partial(print, flush=True)) else 1


def _show_config(options: argparse.Namespace) -> int:
    if options.name is None:
        print("\n".join(resources.server_configs()))
    else:
        print(resources.server_config(options.name).read_text(), end="")
    return 0


def _add_key(options: argparse.Namespace) -> int:
    from avatar_rtc.keys import add_key

    key = add_key(options.file, options.name, options.scopes)
    print(f"{options.file}: {options.name} may {', '.join(options.scopes)}. Its key, which is shown only now:", file=sys.stderr)
    print(key)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from avatar_rtc import evaluate

    return evaluate.evaluate(options)


COMMANDS: dict[str, Command] = {
    "serve": _serve,
    "cluster up": _cluster_up,
    "say": _say,
    "load": _load,
    "generate": _generate,
    "download": _download,
    "pronounce": _pronounce,
    "doctor": _doctor,
    "config": _show_config,
    "keys": _add_key,
    "evaluate": _evaluate,
    "train": train.train,
    "train sample-ode": train.sample_ode,
    "train pack-ode": train.pack_ode,
    "train map-films": train.map_films,
}
