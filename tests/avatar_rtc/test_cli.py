"""The command line as a user meets it: what it prints, and with which code it ends."""

from __future__ import annotations

import io
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from avatar_rtc import cli, client, doctor, extras, prediction, processor, resources
from avatar_rtc.arguments import TRAIN_DATA, joined, make_parser
from avatar_rtc.fake import read_beeps, read_counter

ROOT = Path(__file__).parent.parent.parent
LOG = ROOT / "dev" / "log"
COMMANDS = ("serve", "say", "load", "generate", "download", "doctor", "config", "train", "keys", "evaluate", "pronounce")
TWO_WORDS = (("cluster", "up"), *(("train", word) for word in TRAIN_DATA))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    try:
        code = cli.main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("arguments", [(), *((command,) for command in COMMANDS), *TWO_WORDS])
def test_help_teaches_by_examples(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    code, out, _ = run(capsys, *arguments, "--help")
    assert code == 0
    assert arguments == ("doctor",) or "examples:\n  avatar-rtc" in out


def test_an_address_is_not_spoken(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "say", "http://127.0.0.1:1", "http://127.0.0.1:2", "Hello.")
    assert (code, out) == (2, "")
    assert "http://127.0.0.1:2 is an address, not a line" in err


def test_load_without_a_line_or_a_server_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, unused_tcp_port: int
) -> None:
    script = tmp_path / "script.txt"
    script.write_text("# nothing\n2.5\n")
    code, out, err = run(capsys, "load", f"http://127.0.0.1:{unused_tcp_port}", "--script", str(script))
    assert (code, out) == (2, "")
    assert "has nothing to say" in err
    code, out, _ = run(capsys, "load", f"http://127.0.0.1:{unused_tcp_port}", "--calls", "2")
    assert code == 1
    assert "2 refused" in out
    assert "avatar-rtc serve" in out


def documented_commands() -> list[str]:
    """Every ``avatar-rtc`` command in the documents and in the examples of the help."""
    texts = [path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    texts += [text for name, text in vars(cli).items() if name.endswith("_EXAMPLES") or name == "EXAMPLES"]
    commands = re.findall(
        rf"^ *(?:ExecStart=)?(?:/\S*/)?(avatar-rtc (?:{'|'.join(COMMANDS)}|cluster) ?.*)$",
        re.sub(r" *\\\n *", " ", "\n".join(texts)),
        re.MULTILINE,
    )
    typed = [re.split(r" {2,}| \| | > ", command)[0].strip() for command in commands]
    return [command for command in typed if not command.endswith("--help")]


@pytest.mark.parametrize("command", documented_commands())
def test_what_the_documents_show_can_be_typed(command: str) -> None:
    options = make_parser(cli.COMMANDS).parse_args(joined(shlex.split(command)[1:]))
    assert options.command.split()[0] in (*COMMANDS, "cluster")


@pytest.mark.parametrize(
    "path",
    ["README.md", "ARCHITECTURE.md", "docs/deployment.md", "docs/decisions.md", *(f"dev/log/{p.name}" for p in LOG.glob("*.md"))],
)
def test_links_lead_somewhere(path: str) -> None:
    page = ROOT / path
    links = re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_pronounce_prints_a_sentence_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(capsys, "pronounce", "# To do\n- Pay $5") == (0, "To do\nPay five dollars\n", "")
    assert run(capsys, "pronounce", "Hello there.", "--phonemes") == (0, "Hello there.\n    həlˈO ðˈɛɹ.\n", "")
    monkeypatch.setattr("sys.stdin", io.StringIO("A man. <S>Hi.<E>\n"))
    assert run(capsys, "pronounce", "-") == (0, "Hi.\n", "")
    pieces = ("pronounce", "--piece", "<thi", "--piece", "nk>Hm.</think>It is 3", "--piece", ".5 km. Bye")
    assert run(capsys, *pieces) == (0, "It is three point five kilometers.\nBye\n", "")
    for arguments, says in (((), "give a text"), (("a", "--piece", "b"), "give a text"), (("😀",), "nothing to speak")):
        code, out, err = run(capsys, "pronounce", *arguments)
        assert (code, out) == (2, "")
        assert says in err


def test_pronounce_does_not_wait_for_torch() -> None:
    probe = "import sys; from avatar_rtc import cli; cli.main(['pronounce', 'Hi.']); print({'torch', 'av'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", probe], text=True) == "Hi.\nset()\n"


def test_help_does_not_wait_for_torch() -> None:
    probe = (
        "import sys; from avatar_rtc import arguments, cli; arguments.make_parser(cli.COMMANDS).format_help(); "
        "print({'torch', 'av', 'aiortc'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", probe], text=True).strip() == "set()"


def test_generate_writes_a_film_in_sync(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    code, out, _ = run(capsys, "generate", "Nice to meet you, nice to meet you.", "-o", str(path), "--engine", "fake")
    assert code == 0
    assert "real-time factor" in out
    film_bytes = path.read_bytes()
    assert film_bytes.index(b"moov") < film_bytes.index(b"mdat"), "its index is in front"
    with av.open(str(path)) as film:
        assert {stream.codec.name for stream in film.streams} == {"h264", "aac"}
        counters = [read_counter(frame.to_ndarray(format="gray")) for frame in film.decode(video=0)]
    assert counters == list(range(len(counters)))
    assert len(counters) % 8 == 0
    with av.open(str(path)) as film:
        samples = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(audio=0)]) * 32768
    assert read_beeps(samples, 24_000) == pytest.approx([float(s) for s in range(-(-len(counters) // 25))], abs=0.01)


@pytest.mark.parametrize("what", ["terminated", "full disk"])
def test_a_film_that_is_broken_off_leaves_nothing_behind(tmp_path: Path, what: str) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); " if what == "full disk" else ""
    run = limit + "import sys; from avatar_rtc.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", run, "generate", "word " * 600, "-o", str(tmp_path / "film.mp4"), "--engine", "fake"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as making:
        while making.poll() is None and not list(tmp_path.iterdir()):
            time.sleep(0.02)
        if what == "terminated":
            making.terminate()
        _, err = making.communicate(timeout=60)
    assert (making.returncode, "Traceback" in err) == (143 if what == "terminated" else 2, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "empty"),
        ("привет", "Latin"),
        ("<S>never closed", "not closed"),
        ("a scene <S>  <E>", "Nothing between"),
        ("x" * 5000, "limit"),
    ],
)
def test_a_prompt_that_cannot_be_said_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, prompt: str, says: str
) -> None:
    path = tmp_path / "film.mp4"
    code, out, err = run(capsys, "generate", prompt, "-o", str(path), "--engine", "fake")
    assert (code, out) == (2, "")
    assert err.startswith("avatar-rtc generate: ")
    assert err.count("\n") == 1
    assert says in err
    assert not path.exists()


def test_a_config_with_an_unknown_key_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(resources.server_config("pocket").read_text() + "\nspeed: 11\n")
    code, _, err = run(capsys, "serve", "--config", str(path))
    assert code == 2
    assert "speed: unknown key" in err
    assert "Traceback" not in err


def test_a_language_model_without_its_client_library_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "server.yaml"
    llm = "llm: {base_url: 'http://127.0.0.1:9/v1', model: m}"
    path.write_text(re.sub(r"(?m)^llm: null.*$", llm, resources.server_config("pocket").read_text()))
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "avatar_rtc.mind.chat", raising=False)
    code, _, err = run(capsys, "serve", "--engine", "fake", "--port", "0", "--config", str(path))
    assert code == 2
    assert "pip install 'avatar-rtc[llm]'" in err


def test_listening_without_its_packages_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    code, _, err = run(capsys, "serve", "--engine", "fake", "--port", "0", "--listen")
    assert code == 2
    assert "pip install 'avatar-rtc[listen]'" in err


def test_a_missing_config_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "serve", "--config", "nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml" in err


def test_a_taken_port_is_refused_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = run(capsys, "serve", "--engine", "fake", "--port", str(port))
    assert code == 2
    assert f"port {port} of 127.0.0.1 is taken" in err
    assert "--port" in err


@pytest.mark.parametrize("port", ["70000", "-1", "http"])
def test_a_port_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], port: str) -> None:
    code, _, err = run(capsys, "serve", f"--port={port}")
    assert code == 2
    assert "--port" in err


def test_a_server_that_is_not_there_is_said_to_be_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ABSENT_PATIENCE_S", 0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    code, _, err = run(capsys, "say", url, "Hello.")
    assert code in (1, 2)
    assert url in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        cli.main(["generate", "--debug", "", "-o", str(tmp_path / "film.mp4"), "--engine", "fake"])


def test_doctor_names_what_is_missing_and_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        findings = list(doctor.examine(taken.getsockname()[1], checkpoint_dir=tmp_path))
    by_subject = {finding.subject: finding for finding in findings}
    assert by_subject["weights"].status == "fail"
    assert by_subject["port"].status == "warn"
    assert by_subject["torch"].status == "ok"
    assert all(finding.remedy for finding in findings if finding.status != "ok")
    lines: list[str] = []
    assert not doctor.report(iter(findings), lines.append)
    assert lines[-1] == "1 of these must be mended before a call can work."


@pytest.mark.parametrize(
    ("gflops", "sets", "limits", "status", "says", "helps"),
    [
        (107.0, ["AVX2"], [], "warn", "0.80 s of speech a second: answers begin about 2 s late. (107 GFLOP/s", "bfloat16"),
        (430.0, ["AVX2", "AVX512-BF16"], [], "ok", "4.2 s of speech a second: it keeps up", ""),
        (130.0, ["AVX512-BF16"], ["ONEDNN_MAX_CPU_ISA=AVX2"], "warn", "no bfloat16", "unset ONEDNN_MAX_CPU_ISA=AVX2"),
    ],
)
def test_doctor_predicts_the_speed(
    monkeypatch: pytest.MonkeyPatch, gflops: float, sets: list[str], limits: list[str], status: str, says: str, helps: str
) -> None:
    monkeypatch.setattr(prediction, "GFLOP_A_SECOND_OF_SPEECH", {"float32": 133.0, "bfloat16": 102.0})
    monkeypatch.setattr(processor, "float32_gflops", lambda num_threads: gflops)
    monkeypatch.setattr(processor, "instruction_sets", lambda: sets)
    monkeypatch.setattr(processor, "limits", lambda: limits)
    found = next(finding for finding in doctor.examine(0) if finding.subject == "speed")
    assert found.status == status
    assert says in found.detail
    assert helps in found.remedy


def test_doctor_says_whether_a_server_can_hear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "float32_gflops", lambda num_threads: 430.0)

    def ears() -> doctor.Finding:
        return next(finding for finding in doctor.examine(0) if finding.subject == "ears")

    assert ears().status == "ok"
    monkeypatch.setitem(extras.MODULES, "listen", ("silero_vad", "missing_ears"))
    assert ears().status == "warn"
    assert "(missing_ears)" in ears().detail
    assert "avatar-rtc[listen]" in ears().remedy


def test_doctor_notices_damaged_weights(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: pocket\n")
    (tmp_path / "dit.safetensors").write_bytes(b"these are no weights")
    found = next(finding for finding in doctor.examine(0, checkpoint_dir=tmp_path) if finding.subject == "weights")
    assert found.status == "fail"
    assert "damaged" in found.detail
