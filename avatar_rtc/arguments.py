"""What can be typed after ``avatar-rtc``: commands, their options and their help."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from avatar_rtc import resources

DEFAULT_PORT = 8080
RAY_PORT = 6379
SCOPES = ("call", "speak", "watch", "record", "admin")

EXAMPLES = """
examples:
  avatar-rtc serve                                        a server on http://127.0.0.1:8080; open the page and press Call
  avatar-rtc cluster up                                   the same on many machines
  avatar-rtc say http://127.0.0.1:8080 "Hello."           call that server, say a line, report what was heard
  avatar-rtc load http://127.0.0.1:8080 --calls 4         many callers at once, and what their calls were like
  avatar-rtc generate "Hello, nice to meet you." -o hello.mp4
                                                          the same into a film, without a server
  avatar-rtc download inference --dir weights             the published model's weights
  avatar-rtc pronounce "Dr. Lee owes $5."                 the words as they will be spoken
  avatar-rtc doctor                                       what this machine lacks, and what to do about it
"""
SERVE_EXAMPLES = """
examples:
  avatar-rtc serve
  avatar-rtc serve --host 0.0.0.0 --auth none             reachable from other machines, for everybody
  avatar-rtc serve --host 0.0.0.0 --auth keys.yaml        for whoever has a key; 'avatar-rtc keys add' makes them
  avatar-rtc config pocket > mine.yaml                    a copy of the shipped config, to change limits, looks and ports
  avatar-rtc serve --config mine.yaml
  avatar-rtc serve --config hallo_live_1gpu               a config that comes with the program
  avatar-rtc serve --listen                               one can talk to it (pip install 'avatar-rtc[listen]')
  avatar-rtc serve --engine fake                          numbered frames and beeps instead of the network
"""
CLUSTER_EXAMPLES = f"""
examples:
  avatar-rtc cluster up --config avatar.yaml              the first machine; it prints where others join
  avatar-rtc cluster up --config avatar.yaml --address 10.0.0.1:{RAY_PORT}
                                                          each further one
  avatar-rtc cluster up --address auto                    on a machine whose Ray runs already, as on Kubernetes
  avatar-rtc cluster up --engine fake --name b --port 8081 --address 127.0.0.1:{RAY_PORT}
                                                          one more node on the same machine, to try it

Every machine has a node, which takes calls as 'avatar-rtc serve' does, and a front door, which leads callers to any of the nodes:
put a balancer before the doors. SIGTERM empties this machine, and the others go on. docs/deployment.md has the rest.

Whoever reaches Ray's ports can run programs on all of these machines: keep them within a network of your own.
"""
SAY_EXAMPLES = """
examples:
  avatar-rtc say http://127.0.0.1:8080 "Hello." "How are you?"
  avatar-rtc say http://127.0.0.1:8080 "Hello." --avatar adam --record call.mp4
  avatar-rtc say http://127.0.0.1:8080 "Hello." --json | jq .join_ms
  avatar-rtc say http://127.0.0.1:8080 --ask question.wav a question into the microphone, after the lines if there are any
"""
LOAD_EXAMPLES = """
examples:
  avatar-rtc load http://127.0.0.1:8080 --calls 4                         four callers at once, three lines each
  avatar-rtc load http://127.0.0.1:8080 --calls 20 --ramp 60              one more every three seconds: at which does it break?
  avatar-rtc load http://127.0.0.1:8080 --calls 8 --script lines.txt      what they say
  avatar-rtc load http://127.0.0.1:8080 --calls 8 --wait 30               who finds no seat waits for one, in line
  avatar-rtc load http://127.0.0.1:8080 --calls 8 --json | jq .percentiles

A script has a line to say on each of its lines; a number alone is a pause of so many seconds; # begins a comment. Each caller
says all of it once, beginning with another line than the one before. The exit code is 1 if a call was refused or broke off.

Callers decode what they receive, so they cost this machine something. The last rows say how much, and warn where the callers, not
the server, were the bottleneck. A server on the same machine shares its cores with them.
"""
GENERATE_EXAMPLES = """
examples:
  avatar-rtc generate "Hello, nice to meet you." -o hello.mp4
  avatar-rtc generate "Good morning." -o man.mp4 --scene "A man with a short beard in a library." --voice "a deep male voice"
  avatar-rtc generate "A woman in a garden. <S>What a lovely day!<E> <AUDCAP>a bright female voice<ENDAUDCAP>" -o garden.mp4
  avatar-rtc generate --prompts pocket --output films     a file of prompts that comes with the program
  avatar-rtc generate --prompts prompts.csv --output films --seed 103 --num-samples 3
  avatar-rtc generate --config hallo_live_1gpu --prompts demo --output films

Films of a file of prompts are named after their prompts; video_prompt_mappings.json in the directory says which is which. Begun
again, the command makes only what is missing. Started by torchrun, each process makes its share. A prompt that cannot be said is
reported, the others are made, and the exit code is 2.
"""
DOWNLOAD_EXAMPLES = """
examples:
  avatar-rtc download inference --dir weights             what makes films and calls: shows sizes and licences, then asks
  avatar-rtc download train --dir weights --yes           that, and what training begins with; asks nothing
  avatar-rtc download reward --dir weights                the models that judge while training

Broken off, the command goes on where it stopped when it is run again; what is there is checked, not fetched twice.
Repositories and files are those that the authors of the models name; they were not checked against the hub. They are listed in
configs/download.yaml, where one that has moved can be corrected. HF_ENDPOINT names a mirror, HF_TOKEN logs in.
"""

CONFIG_EXAMPLES = """
examples:
  avatar-rtc config                                       the names of those that come with the program
  avatar-rtc config pocket > mine.yaml                    a copy to change; serve it with --config mine.yaml
"""

PRONOUNCE_EXAMPLES = """
examples:
  avatar-rtc pronounce "Dr. Lee lives at 12 Elm Dr."       Doctor Lee lives at twelve Elm Drive.
  avatar-rtc pronounce "It costs $5." --phonemes           and below it how that sounds, in the alphabet of Kokoro's voices
  avatar-rtc pronounce -                                   standard input, with its line breaks
  avatar-rtc pronounce --piece "It is 3" --piece ".5 km."  pieces as a language model streams them

docs/text.md says how everything is read.
"""
KEYS_EXAMPLES = """
examples:
  avatar-rtc keys add web                                 a key that may call, speak and watch; its hash goes to keys.yaml
  avatar-rtc keys add ops --scopes admin --file /etc/avatar-rtc-keys.yaml
  curl -X POST http://127.0.0.1:8080/v1/tokens -H "Authorization: Bearer $KEY" -d '{"scopes": ["call", "speak"], "ttl_s": 600}'
                                                          a token of it for a browser, good for ten minutes

scopes: call (begin sessions, and end them), speak (say something in them), watch (see them, their events and counters) and record
(record them, download that, push them to a WHIP receiver), all of the key's own sessions and those of its tokens; admin (sessions
of everybody, and the rest, such as /metrics). A server reads the file when it starts: delete a line, and from the next start on
the key and its tokens are worth nothing.
"""
TRAIN_EXAMPLES = """
examples:
  avatar-rtc train configs/train/hallo_live_dmd.yaml      begin a run in runs/hallo_live_dmd, or go on with it
  avatar-rtc train my.yaml --run runs/second --minutes 9  stop and save after nine minutes; the same command goes on
  avatar-rtc train my.yaml --set batch=2 --set learners.generator.clip_norm=1
  torchrun --nproc-per-node 8 --no-python -- avatar-rtc train configs/train/hallo_live_dmd.yaml
                                                          spread over eight GPUs; over machines as torchrun says
  avatar-rtc train configs/train/pocket_base.yaml --minutes 8 --cooldown 0.7
                                                          pocket, on one GPU; a last piece, over which learning rates fall
  avatar-rtc train sample-ode --help                      data for stage 1; also pack-ode and map-films

configs/train has the published recipe. A run's directory has its config, its checkpoints, weights for use in weights/, a line of
JSON a step in journal.jsonl, and curves.html. Ctrl-C finishes the step, saves, and ends; twice ends at once. Data before pocket's
stages, and a checkpoint after them, are made by commands of their own: see docs/training.md.
"""
SAMPLE_EXAMPLES = """
examples:
  avatar-rtc train sample-ode configs/train/hallo_live_ode_init.yaml --prompts prompts.csv
  avatar-rtc train sample-ode configs/train/hallo_live_ode_init.yaml --prompts prompts.csv --num 100 --set stage.trajectories=few
  torchrun --nproc-per-node 8 --no-python -- avatar-rtc train sample-ode configs/train/hallo_live_ode_init.yaml --prompts all.csv
  avatar-rtc train sample-ode configs/train/pocket_ode_init.yaml --num 4000

What is there is not sampled again. Under torchrun each process samples its share, with a teacher of its own.
"""
PACK_EXAMPLES = """
examples:
  avatar-rtc train pack-ode data/trajectories --output data/trajectories.lmdb
  avatar-rtc train pack-ode data/trajectories.lmdb --unpack --output data/files

Keys and shapes are those of the published data sets. A prompt that comes twice is packed once.
"""
MAP_EXAMPLES = """
examples:
  avatar-rtc train map-films films --prompts prompts.csv --seed 103 --size 512x992
"""
EVALUATE_EXAMPLES = """
examples:
  avatar-rtc evaluate model/weights/pocket -o judged      the shipped checkpoint, on prompts that it never learned from
  avatar-rtc evaluate truth decoded old=old/pocket new=my/pocket --num 12 -o judged
                                                          two checkpoints beside what they are to come near to
  avatar-rtc evaluate my/pocket --prompts films/video_prompt_mappings.json -o judged
  avatar-rtc evaluate my/pocket --judges words,voice -o judged
  avatar-rtc evaluate my/pocket --num 1 --minutes 10 -o judged
                                                          does a long stream drift? Its first and last 30 s side by side
  avatar-rtc evaluate --list                              the judges, and what is missing for some

Films, video_prompt_mappings.json and what making them took lie below the output directory, one directory a source. Begun again,
the command makes only what is missing, then judges everything. The table is also in figures.json and, with the films side by side
in index.html. Judges come with pip install 'avatar-rtc[evaluate]'; drawn films, truth and decoded, also need 'avatar-rtc[train]'.

Truth is the face as the renderer draws it, spoken by hibari, the one teacher that installs by name; decoded is the same, once
encoded and decoded by the first checkpoint. Percentages in brackets are shares of the truth's.
"""
TRAIN_DATA = ("sample-ode", "pack-ode", "map-films")
"""Words after ``train`` that make another command of it."""

Command = Callable[[argparse.Namespace], int]
"""Carries out what was parsed; returns the exit code."""
AddCommand = Callable[[str, str, str], argparse.ArgumentParser]
"""Adds a command: its name, what it does in one sentence, what its help ends with."""


def joined(arguments: Sequence[str]) -> Sequence[str]:
    """``train sample-ode``, or ``cluster up``, is one word to the parser, so that it has options and a help of its own."""
    if arguments[:1] and arguments[0] == "train" and arguments[1:2] and arguments[1] in TRAIN_DATA:
        return [f"train {arguments[1]}", *arguments[2:]]
    if tuple(arguments[:2]) == ("cluster", "up"):
        return ["cluster up", *arguments[2:]]
    return arguments


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port: take one from 1 to 65535, or 0 for any that is free")
    return port


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name: take up to 40 small letters, digits and dashes")
    return text


def _config(text: str) -> Path:
    """A file, or the shipped one of this name."""
    return Path(text) if Path(text).exists() or text not in resources.server_configs() else resources.server_config(text)


def _prompts(text: str) -> Path:
    """The same of prompts."""
    return Path(text) if Path(text).exists() or text not in resources.prompt_files() else resources.prompts(text)


def _scopes(text: str) -> list[str]:
    scopes = [scope.strip() for scope in text.split(",")]
    unknown = next((scope for scope in scopes if scope not in SCOPES), None)
    if unknown is not None:
        raise argparse.ArgumentTypeError(f"{unknown!r} is no scope: take some of {','.join(SCOPES)}")
    return scopes


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no such number: take 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is no time: give 0 or more seconds")
    return value


def _minutes(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time: give more than 0 minutes")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: give 0 to 1")
    return value


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text} is no size: write height and width in pixels, such as 512x992")
    return int(height), int(width)


def make_parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Args:
        commands: what carries out each command, by its name; it is found in what is parsed as ``carry_out``.
    """
    parser = argparse.ArgumentParser(
        prog="avatar-rtc",
        description="A real-time avatar for WebRTC calls: text in, a talking face and voice out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"avatar-rtc {version('avatar-rtc')}")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        added = parsers.add_parser(
            name, help=summary, description=summary, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        added.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
        added.set_defaults(carry_out=commands[name])
        return added

    def add_serving(serve: argparse.ArgumentParser) -> None:
        serve.add_argument("--config", type=_config, metavar="FILE", help=f"server config: {config_help} (default: pocket)")
        serve.add_argument("--host", help="address to listen on (default: the config's, 127.0.0.1)")
        serve.add_argument("--port", type=_port, help=f"port to listen on, 0 for any (default: the config's, {DEFAULT_PORT})")
        serve.add_argument(
            "--auth", metavar="FILE", help="a file of API keys, or none to let everybody call (default: the config's)"
        )
        serve.add_argument("--engine", choices=("pocket", "fake"), help="what is served (default: the config's, pocket)")
        serve.add_argument("--listen", action="store_true", help="hear who speaks, on this machine, if the config has no listen")

    config_help = f"a file, or one that comes with the program ({', '.join(resources.server_configs())})"
    serve = command("serve", "Serve the page and its calls until Ctrl-C.", SERVE_EXAMPLES)
    add_serving(serve)

    cluster = command("cluster up", "Serve on many machines: begin a cluster, or join one.", CLUSTER_EXAMPLES)
    add_serving(cluster)
    cluster.add_argument(
        "--address", metavar="HOST:PORT", help="the cluster to join; auto: that of this machine's Ray (default: begin one)"
    )
    cluster.add_argument("--name", type=_name, help="of this node, other than those of the others (default: this machine's)")
    cluster.add_argument("--ip", metavar="ADDRESS", help="of this machine, as the others reach it (default: Ray finds out)")
    cluster.add_argument(
        "--ray-port",
        type=_port,
        default=RAY_PORT,
        metavar="PORT",
        help=f"where others join a cluster that begins (default: {RAY_PORT})",
    )

    say = command("say", "Call a server, say lines one after the other, and report what was seen and heard.", SAY_EXAMPLES)
    say.add_argument("url", metavar="URL", help="the server's address, such as http://127.0.0.1:8080")
    say.add_argument("text", nargs="*", help="a line, or a prompt such as 'A man. <S>Hello.<E> <AUDCAP>a deep voice<ENDAUDCAP>'")
    say.add_argument(
        "--ask", type=Path, action="append", default=[], metavar="FILE", help="speak this recording to a server that listens"
    )
    say.add_argument("--avatar", metavar="ID", help="who says it, such as adam (default: the server's first look)")
    say.add_argument("--voice", help="a voice of the server by its id, or a description (default: that of the look)")
    say.add_argument("--record", type=Path, metavar="FILE", help="write what was seen and heard to this MP4 file")
    say.add_argument("--key", help="API key or token, for a server that asks who calls (default: $AVATAR_RTC_KEY)")
    say.add_argument("--json", action="store_true", help="print the summary as one JSON object; captions go to standard error")

    load = command("load", "Call a server many times at once, and report what the calls were like.", LOAD_EXAMPLES)
    load.add_argument("url", metavar="URL", help="the server's address, such as http://127.0.0.1:8080")
    load.add_argument("--calls", type=_count, default=1, metavar="N", help="callers (default: 1)")
    load.add_argument("--ramp", type=_seconds, default=0.0, metavar="S", help="begin them over so many seconds (default: 0)")
    load.add_argument("--script", type=Path, metavar="FILE", help="what each of them says (default: three lines)")
    load.add_argument("--wait", type=_count, metavar="S", help="wait for a seat for so long, 30 at most (default: not at all)")
    load.add_argument("--key", help="API key or token, for a server that asks who calls (default: $AVATAR_RTC_KEY)")
    load.add_argument("--json", action="store_true", help="print the report as one JSON object, call by call")

    generate = command("generate", "Make a film of a prompt, without a server.", GENERATE_EXAMPLES)
    generate.add_argument(
        "prompt", nargs="?", help="a line, or a prompt such as 'A man. <S>Hello.<E> <AUDCAP>a deep voice<ENDAUDCAP>'"
    )
    generate.add_argument(
        "--prompts",
        type=_prompts,
        metavar="FILE",
        help="a CSV or TSV file with prompts in its column text_prompt, or one that comes with the program "
        f"({', '.join(resources.prompt_files())})",
    )
    generate.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PATH", help="the MP4 file to write; with --prompts, a directory"
    )
    generate.add_argument("--scene", help="who is seen, and where (default: the first avatar of the shipped config)")
    generate.add_argument("--voice", help="a description, or a voice of the shipped config by its id")
    generate.add_argument("--image", type=Path, metavar="FILE", help="JPEG or PNG to begin with; only hallo-live can")
    generate.add_argument(
        "--seed",
        type=int,
        help="for everything that the prompt leaves open (default: that of the first avatar where it is seen, else 0)",
    )
    generate.add_argument(
        "--num-samples", type=_count, default=1, metavar="N", help="films of each prompt of --prompts, with seeds from --seed on"
    )
    generate.add_argument(
        "--config", type=_config, metavar="FILE", help="server config that names the model, looks and voices; see serve"
    )
    generate.add_argument("--engine", choices=("pocket", "fake"), help="which model speaks (default: the config's, pocket)")

    download = command("download", "Fetch the published models' weights.", DOWNLOAD_EXAMPLES)
    download.add_argument("group", choices=("inference", "train", "reward"), help="what for")
    download.add_argument("--dir", type=Path, required=True, metavar="DIR", help="where to; made if it is not there")
    download.add_argument("--yes", action="store_true", help="do not ask")

    pronounce = command("pronounce", "Print the words of a text as they will be spoken.", PRONOUNCE_EXAMPLES)
    pronounce.add_argument("text", nargs="?", help="what a call would be sent: a text or a prompt; - reads standard input")
    pronounce.add_argument("--piece", action="append", metavar="TEXT", help="a piece of a streamed text; repeat it")
    pronounce.add_argument("--phonemes", action="store_true", help="print each sentence's phonemes, too")

    doctor = command("doctor", "Check this machine, and say what to do about what is missing.", "")
    doctor.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, help=f"the port that should be free (default: {DEFAULT_PORT})"
    )

    show = command("config", "Print a server config that comes with the program.", CONFIG_EXAMPLES)
    show.add_argument("name", nargs="?", choices=resources.server_configs(), help="which one; without it, their names")

    keys = command("keys", "Make an API key.", KEYS_EXAMPLES)
    keys.add_argument("action", choices=("add",), help="add a key to the file")
    keys.add_argument("name", metavar="NAME", help="whose it is, such as web")
    keys.add_argument(
        "--scopes", type=_scopes, default="call,speak,watch", help="what it may (default: call,speak,watch)", metavar="LIST"
    )
    keys.add_argument(
        "--file", type=Path, default=Path("keys.yaml"), metavar="FILE", help="where its hash goes (default: keys.yaml)"
    )

    _add_train(command)

    evaluate = command("evaluate", "Make films of checkpoints, and judge them.", EVALUATE_EXAMPLES)
    evaluate.add_argument(
        "sources", nargs="*", metavar="SOURCE", help="a checkpoint's directory, NAME=DIRECTORY, truth, or decoded (see below)"
    )
    evaluate.add_argument(
        "--prompts",
        type=_prompts,
        metavar="FILE",
        default=resources.prompts("held_out"),
        help="CSV or TSV with a column text_prompt, a video_prompt_mappings.json, or one that comes with the program "
        f"({', '.join(resources.prompt_files())}; default: held_out, which training never saw)",
    )
    evaluate.add_argument("-o", "--output", type=Path, default=Path("judged"), metavar="DIR", help="where to (default: judged)")
    evaluate.add_argument("--num", type=_count, metavar="N", help="the first N prompts (default: all)")
    evaluate.add_argument(
        "--seed", type=int, default=0, help="of the first prompt's film; each next one has the next (default: 0)"
    )
    evaluate.add_argument("--judges", metavar="A,B", help="only these (default: all that are installed)")
    evaluate.add_argument("--minutes", type=_minutes, metavar="M", help="also a film of each checkpoint that lasts so long")
    evaluate.add_argument("--list", action="store_true", help="list the judges and end")
    return parser


def _add_train(command: AddCommand) -> None:
    """The commands of training."""

    def add_set(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--set", action="append", default=[], metavar="KEY=VALUE", help="in place of what the config says; may be repeated"
        )

    run = command("train", "Train: begin a run, or go on with it.", TRAIN_EXAMPLES)
    run.add_argument("config", type=Path, metavar="CONFIG", help="what is trained, and how: see configs/train")
    run.add_argument("--run", type=Path, metavar="DIR", help="where the run lives (default: runs/ and the config's name)")
    run.add_argument("--minutes", type=_minutes, metavar="M", help="stop and save after so long (default: after all steps)")
    run.add_argument(
        "--cooldown",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="of these minutes, the last of them, over which learning rates fall: for a run's last piece (default: 0)",
    )
    add_set(run)

    sample = command("train sample-ode", "Sample the teacher's trajectories, for stage 1.", SAMPLE_EXAMPLES)
    sample.add_argument("config", type=Path, metavar="CONFIG", help="a config of stage 1: it says how, and where to")
    sample.add_argument(
        "--prompts", type=Path, metavar="FILE", help="a table with a column text_prompt; not for pocket, whose clips say it"
    )
    sample.add_argument("--num", type=_count, metavar="N", help="so many prompts: the first; pocket's, spread over its clips")
    add_set(sample)

    pack = command("train pack-ode", "Pack trajectories into an LMDB, or unpack one.", PACK_EXAMPLES)
    pack.add_argument("source", type=Path, nargs="+", metavar="DIR", help="directories of trajectories; with --unpack, an LMDB")
    pack.add_argument("-o", "--output", type=Path, required=True, metavar="PATH", help="where to; must not be there yet")
    pack.add_argument("--unpack", action="store_true", help="from an LMDB into files")

    films = command("train map-films", "Say which film of a directory is of which prompt.", MAP_EXAMPLES)
    films.add_argument("directory", type=Path, metavar="DIR", help="films named as 'avatar-rtc generate --prompts' names them")
    films.add_argument("--prompts", type=Path, required=True, metavar="FILE", help="a table with a column text_prompt")
    films.add_argument("--seed", type=int, default=103, help="in the films' names (default: 103)")
    films.add_argument("--size", type=_size, default=(512, 992), metavar="HxW", help="in the films' names (default: 512x992)")
