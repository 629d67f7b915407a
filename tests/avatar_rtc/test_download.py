"""Fetching weights, from a stand-in for the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from avatar_rtc import cli, download, resources
from avatar_rtc.errors import DownloadError
from tests.support.hub import Hub, serving

PUBLISHED = {
    "fudan-generative-ai/Hallo-Live": ["README.md", "hallolive_dit.pt", "hallolive_ode_init.pt", "synthetic_prompts_32k.csv"],
    "Wan-AI/Wan2.1-T2V-1.3B": [
        "README.md",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "Wan2.1_VAE.pth",
        "google/umt5-xxl/tokenizer.json",
        "google/umt5-xxl/spiece.model",
    ],
    "Wan-AI/Wan2.2-TI2V-5B": ["Wan2.2_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth"],
    "hkchengrex/MMAudio": ["ext_weights/v1-16.pth", "ext_weights/best_netG.pt", "weights/mmaudio_large.pth"],
    "chetwinlow1/Ovi": ["model.safetensors", "model_960x960.safetensors"],
    "KlingTeam/VideoReward": [".gitattributes", "model_config.json", "checkpoint-11352/model.pth"],
    "Qwen/Qwen2-VL-2B-Instruct": ["config.json", "model-00001-of-00002.safetensors"],
    "facebook/audiobox-aesthetics": ["checkpoint.pt", "model.safetensors"],
    "ByteDance/LatentSync-1.6": ["auxiliary/syncnet_v2.model", "auxiliary/sfd_face.pth", "latentsync_unet.pt"],
}
INFERENCE = [
    "Hallo-Live/hallolive_dit.pt",
    "MMAudio/ext_weights/best_netG.pt",
    "MMAudio/ext_weights/v1-16.pth",
    "Wan2.1-T2V-1.3B/google/umt5-xxl/spiece.model",
    "Wan2.1-T2V-1.3B/google/umt5-xxl/tokenizer.json",
    "Wan2.1-T2V-1.3B/models_t5_umt5-xxl-enc-bf16.pth",
    "Wan2.2-TI2V-5B/Wan2.2_VAE.pth",
]
DIT = "Hallo-Live/hallolive_dit.pt"
DIT_BYTES = 300_000


def content(repository: str, path: str) -> bytes:
    """Small for small files, some tens of kilobytes for weights, and the longest of all for the transformer."""
    size = DIT_BYTES if path == "hallolive_dit.pt" else 200 if path.endswith((".json", ".md")) else 20_000
    seed = f"{repository}/{path}".encode()
    return (seed * (size // len(seed) + 1))[:size]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repositories = {name: {path: content(name, path) for path in paths} for name, paths in PUBLISHED.items()}
    with serving(Hub(repositories, licences={"Qwen/Qwen2-VL-2B-Instruct": "apache-2.0"})) as hub:
        # As HF_ENDPOINT would have done when the library was imported.
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        # What it keeps of a broken connection is a multiple of this, and ten megabytes otherwise.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 15)
        # The library waits a second before it tries again.
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        yield hub


def fetch(group: str, directory: Path) -> list[str]:
    lines: list[str] = []
    download.carry_out(download.plan(group, directory), lines.append)
    return lines


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file() and path.name[0] != ".")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["download", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


# What is fetched


def test_inference_is_laid_out_as_the_loaders_expect_it(hub: Hub, tmp_path: Path) -> None:
    lines = fetch("inference", tmp_path / "weights")
    assert files(tmp_path / "weights") == INFERENCE
    assert all(line.endswith("fetched and checked") for line in lines)
    for name in INFERENCE:
        directory, _, path = name.partition("/")
        repository = next(repository for repository in PUBLISHED if repository.endswith(f"/{directory}"))
        assert (tmp_path / "weights" / name).read_bytes() == content(repository, path)
    assert not list(tmp_path.rglob("*.part"))


def test_training_is_more_than_inference(hub: Hub, tmp_path: Path) -> None:
    fetch("train", tmp_path)
    more = ["Hallo-Live/hallolive_ode_init.pt", "Hallo-Live/synthetic_prompts_32k.csv", "Ovi/model.safetensors"]
    assert files(tmp_path) == sorted(INFERENCE + more)


def test_the_judges_are_fetched_whole_or_in_part(hub: Hub, tmp_path: Path) -> None:
    fetch("reward", tmp_path)
    assert files(tmp_path) == [
        "LatentSync-1.6/auxiliary/sfd_face.pth",
        "LatentSync-1.6/auxiliary/syncnet_v2.model",
        "Qwen2-VL-2B-Instruct/config.json",
        "Qwen2-VL-2B-Instruct/model-00001-of-00002.safetensors",
        "VideoReward/checkpoint-11352/model.pth",
        "VideoReward/model_config.json",
        "audiobox-aesthetics/checkpoint.pt",
    ]


# What is there


def test_a_whole_directory_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch("inference", tmp_path)
    hub.fetched.clear()
    again = download.plan("inference", tmp_path)
    assert (len(again.there), again.unchecked, again.wanted) == (len(INFERENCE), (), ())
    assert fetch("inference", tmp_path) == []
    assert hub.fetched == []


def test_files_that_came_another_way_are_checked_and_taken(hub: Hub, tmp_path: Path) -> None:
    fetch("inference", tmp_path)
    (tmp_path / download.LEDGER_FILE).unlink()
    hub.fetched.clear()
    assert len(download.plan("inference", tmp_path).unchecked) == len(INFERENCE)
    assert all(line.endswith(": checked") for line in fetch("inference", tmp_path))
    assert hub.fetched == []
    assert len(download.plan("inference", tmp_path).there) == len(INFERENCE)


def test_a_file_that_changed_is_checked_and_fetched_again(hub: Hub, tmp_path: Path) -> None:
    fetch("inference", tmp_path)
    hub.fetched.clear()
    whole = (tmp_path / DIT).read_bytes()
    (tmp_path / DIT).write_bytes(whole[:-1] + b"?")
    lines = fetch("inference", tmp_path)
    assert [line.rpartition(": ")[2] for line in lines] == ["damaged or another version, fetched again", "fetched and checked"]
    assert (tmp_path / DIT).read_bytes() == whole
    (tmp_path / DIT).write_bytes(whole[:100])
    assert "what lies there is another" in download.plan("inference", tmp_path).table()
    fetch("inference", tmp_path)
    assert (tmp_path / DIT).read_bytes() == whole
    assert hub.fetched == [("hallolive_dit.pt", 0)] * 2


# Broken connections


def test_a_broken_connection_is_taken_up_in_the_same_run(hub: Hub, tmp_path: Path) -> None:
    hub.break_after_bytes = 130_000
    fetch("inference", tmp_path)
    assert (tmp_path / DIT).read_bytes() == hub.repositories["fudan-generative-ai/Hallo-Live"]["hallolive_dit.pt"]
    starts = [start for path, start in hub.fetched if path == "hallolive_dit.pt"]
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert len(starts) >= 3


def test_an_interrupted_run_is_taken_up_by_the_next(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    hub.break_after_bytes = 130_000
    monkeypatch.setattr(time, "sleep", interrupt)
    code, _, err = run(capsys, "inference", "--dir", str(tmp_path), "--yes")
    assert code == 130
    assert "What has come stays" in err
    assert files(tmp_path) == []
    (part,) = tmp_path.rglob("*.part")
    come = part.stat().st_size
    assert 0 < come <= 130_000

    hub.break_after_bytes = None
    hub.fetched.clear()
    what = download.plan("inference", tmp_path)
    assert "have come" in what.table()
    assert what.missing_bytes == sum(file.size_bytes for file in what.wanted) - come
    code, out, _ = run(capsys, "inference", "--dir", str(tmp_path), "--yes")
    assert code == 0
    assert "Everything for inference is in" in out
    assert ("hallolive_dit.pt", come) in hub.fetched
    assert ("hallolive_dit.pt", 0) not in hub.fetched
    assert (tmp_path / DIT).read_bytes() == hub.repositories["fudan-generative-ai/Hallo-Live"]["hallolive_dit.pt"]


def test_a_connection_that_keeps_breaking_is_told_and_what_came_stays(hub: Hub, tmp_path: Path) -> None:
    hub.break_after_bytes = 0
    with pytest.raises(DownloadError, match="what has come stays"):
        fetch("inference", tmp_path)
    hub.break_after_bytes = None
    fetch("inference", tmp_path)
    assert files(tmp_path) == INFERENCE


def test_a_damaged_part_is_removed_and_said_so(hub: Hub, tmp_path: Path) -> None:
    what = download.plan("inference", tmp_path)
    (file,) = [file for file in what.wanted if file.name == "hallolive_dit.pt"]
    file.part.parent.mkdir(parents=True)
    file.part.write_bytes(b"?" * 1000)
    with pytest.raises(DownloadError, match="came damaged and was removed: run the same command again"):
        fetch("inference", tmp_path)
    assert not file.part.exists()
    fetch("inference", tmp_path)
    assert files(tmp_path) == INFERENCE


def test_a_new_version_on_the_hub_does_not_continue_the_old_part(hub: Hub, tmp_path: Path) -> None:
    (old,) = [file for file in download.plan("inference", tmp_path).wanted if file.name == "hallolive_dit.pt"]
    old.part.parent.mkdir(parents=True)
    old.part.write_bytes(b"?" * 1000)
    hub.repositories["fudan-generative-ai/Hallo-Live"]["hallolive_dit.pt"] = b"new" * 50_000
    fetch("inference", tmp_path)
    assert (tmp_path / DIT).read_bytes() == b"new" * 50_000


# What goes wrong


def test_no_connection_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match=r"http://127\.0\.0\.1:9 cannot be reached.*Is this machine online\?"):
        download.plan("inference", tmp_path)


def test_a_repository_or_file_that_moved_is_named_with_where_to_correct_it(hub: Hub, tmp_path: Path) -> None:
    del hub.repositories["hkchengrex/MMAudio"]["ext_weights/v1-16.pth"]
    with pytest.raises(DownloadError, match=r"hkchengrex/MMAudio has no file ext_weights/v1-16\.pth.*download\.yaml"):
        download.plan("inference", tmp_path)
    del hub.repositories["hkchengrex/MMAudio"]
    with pytest.raises(DownloadError, match=r"has no hkchengrex/MMAudio.*hf auth login.*download\.yaml"):
        download.plan("inference", tmp_path)


def test_terms_to_accept_and_a_hub_in_trouble_are_told(hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("facebook/audiobox-aesthetics")
    with pytest.raises(DownloadError, match="audiobox-aesthetics wants its terms accepted"):
        download.plan("reward", tmp_path)
    hub.status = 500
    with pytest.raises(DownloadError, match="answered 500 for KlingTeam/VideoReward: try again later"):
        download.plan("reward", tmp_path)


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "SPARE_BYTES", 1 << 60)
    with pytest.raises(DownloadError, match="make room, or take another --dir"):
        fetch("inference", tmp_path)
    assert hub.fetched == []


def test_a_disk_that_fills_up_is_told(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "http_get", write)
    with pytest.raises(DownloadError, match="the disk is full"):
        fetch("inference", tmp_path)


def test_a_name_that_leaves_the_directory_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["KlingTeam/VideoReward"]["a/../../../escaped.pth"] = b"x" * 2000
    with pytest.raises(DownloadError, match="would leave"):
        download.plan("reward", tmp_path / "weights")


def test_two_downloads_into_one_directory_are_kept_apart(hub: Hub, tmp_path: Path) -> None:
    what = download.plan("inference", tmp_path)
    with download._alone_in(tmp_path), pytest.raises(DownloadError, match="another download into"):
        download.carry_out(what, print)


# The command


def test_sizes_and_licences_are_shown_before_anything_is_fetched(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    code, out, err = run(capsys, "inference", "--dir", str(tmp_path / "weights"))
    assert code == 2
    assert "say --yes" in err
    assert "hkchengrex/MMAudio   licence: CC-BY-NC-4.0" in out
    assert "NON-COMMERCIAL use only" in out
    assert "300.00 kB  Hallo-Live/hallolive_dit.pt  (to fetch)" in out
    assert hub.fetched == []
    assert not (tmp_path / "weights").exists()


def test_a_licence_that_we_do_not_know_is_what_the_repository_states(hub: Hub, tmp_path: Path) -> None:
    table = download.plan("reward", tmp_path).table()
    assert "Qwen/Qwen2-VL-2B-Instruct   licence: apache-2.0 (says the repository)" in table
    assert f"licence: not stated; see {hub.address}/KlingTeam/VideoReward before you use it" in table
    assert "NON-COMMERCIAL" not in table


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1), ("", 1)])
def test_it_asks_first(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, code: int
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: answer)
    assert run(capsys, "inference", "--dir", str(tmp_path))[0] == code
    assert files(tmp_path) == (INFERENCE if code == 0 else [])


def test_a_process_of_its_own_finds_the_hub_by_its_environment(hub: Hub, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from avatar_rtc.cli import main; sys.exit(main())"]
    done = subprocess.run(
        [*command, "download", "inference", "--dir", str(tmp_path), "--yes"],
        env=os.environ | {"HF_ENDPOINT": hub.address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == INFERENCE
    assert set(json.loads((tmp_path / download.LEDGER_FILE).read_text())) == set(INFERENCE)


def test_the_shipped_table_is_one_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    sources = download.read_sources(resources.download_table())
    assert {group for source in sources for group in source.groups} == set(download.GROUPS)
    (tmp_path / "download.yaml").write_text("- {directory: A, repository: b/c}\n")
    with pytest.raises(DownloadError, match=r"download\.yaml is no table of weights"):
        download.read_sources(tmp_path / "download.yaml")
