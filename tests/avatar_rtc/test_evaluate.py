"""Films of checkpoints, judged by those judges that need no package of their own, with a model that is deterministic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avatar_rtc import cli, models
from avatar_rtc.evaluate import parse_sources, read_rows
from avatar_rtc.fake import FakeModel
from model.errors import ConfigError, PromptTableError
from model.text.prompt_table import MAPPINGS_FILE
from tests.model.support import write_checkpoint

PROMPTS = ["A man. <S>One.<E> <AUDCAP>a deep male voice<ENDAUDCAP>", "A woman. <S>Two three.<E>"]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Checkpoints that were loaded."""
    paths: list[Path] = []

    def load(path: Path, _: object) -> FakeModel:
        paths.append(path)
        return FakeModel()

    monkeypatch.setattr(models, "load_checkpoint", load)
    return paths


def evaluate(directory: Path, *more: str) -> int:
    (directory / "prompts.json").write_text(json.dumps({f"{i}.mp4": prompt for i, prompt in enumerate(PROMPTS)}))
    arguments = ["--prompts", str(directory / "prompts.json"), "-o", str(directory / "judged"), "--judges", "pitch,picture,lips"]
    return cli.main(["evaluate", str(write_checkpoint(directory / "small")), *arguments, *more])


def test_films_are_made_once_and_judged(tmp_path: Path, loaded: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path, "--minutes", "0.1") == 0
    directory = tmp_path / "judged" / "small"
    mappings = json.loads((directory / MAPPINGS_FILE).read_text())
    assert sorted(mappings.values()) == sorted(PROMPTS)
    assert all((directory / name).is_file() for name in mappings)
    told = json.loads((tmp_path / "judged" / "figures.json").read_text())
    assert list(told["sources"]) == ["small", "small, first 30 s of 0 min", "small, last 30 s of 0 min"]
    small = told["sources"]["small"]
    assert small["figures"].keys() >= {"detail", "light", "rtf"}
    assert small["films"].keys() == mappings.keys()
    assert told["machine"]["float32_gflops"] > 0
    page = (tmp_path / "judged" / "index.html").read_text()
    assert page.count("<video") == 4
    assert "sharpness" in capsys.readouterr().out

    # Again: what is there is not made again, and what making it took is not forgotten.
    assert evaluate(tmp_path) == 0
    assert loaded == [tmp_path / "small"]
    again = json.loads((tmp_path / "judged" / "figures.json").read_text())["sources"]["small"]
    assert again == small


def test_bad_input_is_told_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "is no checkpoint" in capsys.readouterr().err
    assert cli.main(["evaluate", "truth", "--judges", "taste"]) == 2
    assert "choose of words, voice" in capsys.readouterr().err
    one, other = write_checkpoint(tmp_path / "a" / "pocket"), write_checkpoint(tmp_path / "b" / "pocket")
    with pytest.raises(ConfigError, match="NAME=DIRECTORY"):
        parse_sources([str(one), str(other)])
    assert [source.name for source in parse_sources([str(one), f"new={other}", "truth"])] == ["pocket", "new", "truth"]
    with pytest.raises(ConfigError, match="name a checkpoint too"):
        parse_sources(["truth", "decoded"])
    (tmp_path / MAPPINGS_FILE).write_text("[1, 2]")
    with pytest.raises(PromptTableError, match="films and their prompts"):
        read_rows(tmp_path / MAPPINGS_FILE, None)
