"""A file of prompts into a directory of films, with the deterministic fake model."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from avatar_rtc import cli, resources
from avatar_rtc.batch import Share, generate_all, is_film
from avatar_rtc.errors import BatchError
from avatar_rtc.fake import FakeModel, read_mouth
from avatar_rtc.generate import LEAD_CHUNKS
from model.chunk import StreamSettings
from model.errors import PromptTableError
from model.text.prompt import parse_prompt
from model.text.prompt_table import MAPPINGS_FILE, Row, film_name, read_prompts

PROMPTS = ["One.", "Two.", "Three."]
SETTINGS = StreamSettings("A room.", "a voice", seed=7)


def write(path: Path, *prompts: str) -> Path:
    quoted = (prompt.replace('"', '""') for prompt in prompts)
    path.write_text("".join(f'"{line}"\n' for line in ("text_prompt", *quoted)))
    return path


def make(directory: Path, rows: list[Row], share: Share = Share(), num_samples: int = 1) -> tuple[list[str], list[str]]:  # noqa: B008
    """Lines that were told, and prompts that were refused."""
    told: list[str] = []
    outcome = generate_all(FakeModel(), rows, SETTINGS, directory, num_samples, share, lambda *_: None, told.append)
    return told, outcome.refused


def rows_of(*prompts: str) -> list[Row]:
    return [Row(line, prompt) for line, prompt in enumerate(prompts, 2)]


def films(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.mp4"))


# Names


def test_a_name_is_the_published_one() -> None:
    # Tags go and leave their blanks; blanks and slashes become underscores; 42 characters; md5 of the whole prompt.
    prompt = "A man/woman <S>Hi.<E> <AUDCAP>low<ENDAUDCAP>"
    assert film_name(prompt, 512, 992, 103) == "A_man_woman_Hi._low_ba827187_512x992_103.mp4"
    long = "x" * 41 + " y and more"
    assert film_name(long, 256, 256, 0) == f"{'x' * 41}__2007ac8b_256x256_0.mp4"


def test_a_name_never_leaves_its_directory() -> None:
    for prompt in ("../../etc/passwd", "/", "two\nlines", "é" * 100):
        name = film_name(prompt, 1, 1, 0)
        assert Path(name).name == name
        assert "\n" not in name


# Prompt files


def test_the_column_is_found_among_others_in_csv_and_tsv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text_prompt\n1,"A man, sitting. ""So""."\n2,"Two\nlines"\n\n3,Plain\n')
    assert read_prompts(tmp_path / "a.csv") == [Row(2, 'A man, sitting. "So".'), Row(4, "Two\nlines"), Row(6, "Plain")]
    (tmp_path / "a.tsv").write_text("text_prompt\tid\nA man, sitting.\t1\n")
    assert read_prompts(tmp_path / "a.tsv") == [Row(2, "A man, sitting.")]


def test_a_prompt_that_comes_twice_is_made_once(tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path / "a.csv", "One.", "Two.", "One.")) == [Row(2, "One."), Row(3, "Two.")]


def test_a_mark_at_the_beginning_of_the_file_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\ufefftext_prompt\r\nÄh.\r\n".encode())
    assert read_prompts(tmp_path / "a.csv") == [Row(2, "Äh.")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "only nothing"),
        (b"prompt\nHello.\n", "no column 'text_prompt', only prompt"),
        (b"text_prompt\n", "holds no prompt"),
        (b"text_prompt\nA man, sitting.\n", "line 2: more cells than columns. Put the prompt in double quotes"),
        (b'text_prompt\n"never closed\n', "double quotes"),
        (b"text_prompt\n\xff\xfe\n", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_table_of_prompts_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "prompts.csv").write_bytes(content)
    with pytest.raises(PromptTableError, match=r"prompts\.csv") as refusal:
        read_prompts(tmp_path / "prompts.csv")
    assert says in str(refusal.value)


@pytest.mark.parametrize("name", ["demo", "pocket"])
def test_shipped_prompts_follow_the_published_grammar(name: str) -> None:
    rows = read_prompts(resources.prompts(name))
    assert len(rows) == 5
    for row in rows:
        prompt = parse_prompt(row.prompt)
        assert prompt.scene
        assert prompt.voice
        assert all(3 <= len(line.split()) <= 7 for line in prompt.lines)
        assert row.prompt.endswith("<ENDAUDCAP>")


# Films


def test_each_prompt_and_sample_becomes_a_whole_film(tmp_path: Path) -> None:
    told, refused = make(tmp_path, rows_of(*PROMPTS), num_samples=2)
    wanted = [film_name(prompt, 256, 256, seed) for prompt in PROMPTS for seed in (7, 8)]
    assert films(tmp_path) == sorted(wanted)
    assert (len(told), refused) == (6, [])
    assert json.loads((tmp_path / MAPPINGS_FILE).read_text()) == {
        film_name(prompt, 256, 256, seed): prompt for prompt in PROMPTS for seed in (7, 8)
    }
    for name in wanted:
        assert is_film(tmp_path / name)
        with av.open(str(tmp_path / name)) as film:
            assert {stream.codec.name for stream in film.streams} == {"h264", "aac"}


def test_a_film_begins_with_a_closed_mouth(tmp_path: Path) -> None:
    make(tmp_path, rows_of("Hello there."))
    with av.open(str(next(tmp_path.glob("*.mp4")))) as film:
        mouths = [read_mouth(frame.to_ndarray(format="gray")) for frame in film.decode(video=0)]
    lead_frames = LEAD_CHUNKS * FakeModel.info.chunk_frames
    assert not any(mouths[:lead_frames])
    assert any(mouths[lead_frames : 2 * lead_frames])


def test_begun_again_only_what_is_missing_is_made(tmp_path: Path) -> None:
    make(tmp_path, rows_of("One."))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.mp4")}
    told, _ = make(tmp_path, rows_of("One.", "Two."))
    assert [line.endswith("is there") for line in told] == [True, False]
    assert all(path.stat().st_mtime_ns == made for path, made in before.items())


def test_a_broken_film_is_made_again(tmp_path: Path) -> None:
    make(tmp_path, rows_of("One."))
    (path,) = tmp_path.glob("*.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert not is_film(path)
    make(tmp_path, rows_of("One."))
    assert is_film(path)


def test_a_film_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(film_s: float, work_s: float) -> None:
        if film_s > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_all(FakeModel(), rows_of("One two three."), SETTINGS, tmp_path, 1, Share(), interrupt, print)
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_that_cannot_be_said_does_not_stop_the_others(tmp_path: Path) -> None:
    told, refused = make(tmp_path, rows_of("One.", "привет", "", "<S>open", "Two."), num_samples=2)
    assert len(films(tmp_path)) == 4
    assert [line.partition(":")[0] for line in refused] == ["line 3", "line 4", "line 5"]
    assert sum("refused" in line for line in told) == 3


def test_processes_share_the_prompts_and_one_list(tmp_path: Path) -> None:
    rows = rows_of(*PROMPTS, "Four.", "Five.")
    for rank in range(2):
        make(tmp_path, rows, Share(rank, 2))
        assert len(films(tmp_path)) == (3, 5)[rank]
    assert len(json.loads((tmp_path / MAPPINGS_FILE).read_text())) == 5


def test_a_damaged_list_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / MAPPINGS_FILE).write_text('{"a.mp4": ')
    with pytest.raises(PromptTableError, match="is damaged: remove it"):
        make(tmp_path, rows_of("One."))
    assert (tmp_path / MAPPINGS_FILE).read_text() == '{"a.mp4": '


def test_torchrun_says_which_share_is_ours() -> None:
    assert Share.of_environment({}) == Share(0, 1)
    assert Share.of_environment({"RANK": "3", "WORLD_SIZE": "8"}) == Share(3, 8)
    for environment in ({"RANK": "1"}, {"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "-1", "WORLD_SIZE": "2"}):
        with pytest.raises(BatchError, match="torchrun"):
            Share.of_environment(environment)


# The command


def run(*arguments: str) -> int:
    return cli.main(["generate", "--engine", "fake", *arguments])


def test_the_command_reports_and_its_code_tells(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, output = write(tmp_path / "prompts.csv", "One.", "привет"), tmp_path / "a" / "films"
    assert run("--prompts", str(path), "--output", str(output), "--seed", "5") == 2
    printed = capsys.readouterr()
    assert "line 3 refused: " in printed.out
    assert f"{output}: 1 made" in printed.out
    assert "0 already there, 1 prompt refused" in printed.out
    assert films(output) == [film_name("One.", 256, 256, 5)]
    assert run("--prompts", str(write(path, "One.")), "--output", str(output), "--seed", "5") == 0
    assert "1 already there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-o", "x"], "give a prompt, or a file of them"),
        (["Hi.", "--prompts", "a.csv", "-o", "x"], "give a prompt, or a file of them"),
        (["Hi.", "-o", "x.mp4", "--num-samples", "2"], "--num-samples goes with --prompts"),
        (["--prompts", "nowhere.csv", "-o", "x"], "nowhere.csv"),
    ],
)
def test_the_command_used_wrongly_says_how(capsys: pytest.CaptureFixture[str], arguments: list[str], says: str) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
