"""Published weights from the hub into a directory, as the loaders expect them.

What is to be fetched is a table, ``configs/download.yaml``. A file is fetched beside its place and put there when its digest is
the hub's; until then the part that has come stays, and the next run goes on from it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import httpx2
import huggingface_hub.errors as hub_errors
import yaml
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import ModelInfo
from huggingface_hub.utils._headers import build_hf_headers
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from tqdm import tqdm

from avatar_rtc import resources
from avatar_rtc.errors import DownloadError

Group = Literal["inference", "train", "reward"]
GROUPS: tuple[str, ...] = get_args(Group)

LEDGER_FILE = ".avatar-rtc-download.json"
"""What was checked, by path: a file that has not changed since is not read again."""

HASH_BYTES = 1 << 24
BAR_FROM_BYTES = 1 << 28
"""Smaller files are checked in a moment: a bar would only flicker."""
INFO_TIMEOUT_S = 20.0
SPARE_BYTES = 1 << 30
"""Left free on the disk."""


class Source(BaseModel):
    """Some files of one repository. See ``configs/download.yaml`` for the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: str
    repository: str
    files: tuple[str, ...]
    groups: tuple[Group, ...]
    licence: str | None
    warning: str = ""


@dataclass(frozen=True)
class RemoteFile:
    """A file of the hub and its place here.

    Attributes:
        digest: SHA-256 of a large file, Git's SHA-1 of a small one, in hexadecimal digits.
    """

    source: Source
    revision: str
    name: str
    size_bytes: int
    digest: str
    path: Path

    @property
    def part(self) -> Path:
        """Where it grows. A new version on the hub begins anew."""
        return self.path.with_name(f".{self.path.name}.{self.digest[:12]}.part")

    @property
    def fetched_bytes(self) -> int:
        return min(self.part.stat().st_size, self.size_bytes) if self.part.exists() else 0


@dataclass(frozen=True)
class Plan:
    """What a download comes to.

    Attributes:
        there: files that were checked before and have not changed.
        unchecked: files of the right size that are yet to be checked.
        wanted: files to fetch, wholly or from where an earlier run stopped.
        licences: of each repository, in words.
    """

    directory: Path
    endpoint: str
    there: tuple[RemoteFile, ...]
    unchecked: tuple[RemoteFile, ...]
    wanted: tuple[RemoteFile, ...]
    licences: dict[str, str]

    @property
    def missing_bytes(self) -> int:
        return sum(file.size_bytes - file.fetched_bytes for file in self.wanted)

    def table(self) -> str:
        """For people: files with sizes, then licences, then what there is to do."""
        states = {file: "there" for file in self.there} | {file: "there, to be checked" for file in self.unchecked}
        for file in self.wanted:
            done = f"to fetch, {_size(file.fetched_bytes)} have come" if file.fetched_bytes else "to fetch"
            states[file] = f"{done} (what lies there is another)" if file.path.exists() else done
        lines = []
        for repository, licence in self.licences.items():
            lines.append(f"{repository}   licence: {licence}")
            for file, state in states.items():
                if file.source.repository == repository:
                    lines.append(f"  {_size(file.size_bytes):>9}  {file.path.relative_to(self.directory)}  ({state})")
        warnings = dict.fromkeys(file.source.warning for file in states if file.source.warning)
        total = sum(file.size_bytes for file in states)
        lines += ["", *warnings] if warnings else [""]
        lines.append(f"{_size(total)} in all, {_size(self.missing_bytes)} to fetch, {_size(_free_bytes(self.directory))} free.")
        return "\n".join(lines)


def read_sources(path: Path) -> tuple[Source, ...]:
    """The table.

    Raises:
        DownloadError: it is none.
    """
    try:
        return TypeAdapter(tuple[Source, ...]).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise DownloadError(f"{path} is no table of weights: {error}") from None


def plan(group: str, directory: Path, sources: Sequence[Source] | None = None) -> Plan:
    """Ask the hub what there is, and the disk what has come already. Nothing is written.

    Raises:
        DownloadError: the hub cannot be reached or does not have it.
    """
    if sources is None:
        sources = read_sources(resources.download_table())
    api = HfApi(endpoint=constants.ENDPOINT)
    ledger = _read_ledger(directory)
    there: list[RemoteFile] = []
    unchecked: list[RemoteFile] = []
    wanted: list[RemoteFile] = []
    licences: dict[str, str] = {}
    for source in (source for source in sources if group in source.groups):
        with _explained(source.repository, api.endpoint):
            info = api.model_info(source.repository, files_metadata=True, timeout=INFO_TIMEOUT_S)
        licences[source.repository] = source.licence or _stated_licence(info, api.endpoint)
        for file in _matching(source, info, directory):
            if not file.path.is_file() or file.path.stat().st_size != file.size_bytes:
                wanted.append(file)
            elif ledger.get(_key(file, directory)) == _record(file):
                there.append(file)
            else:
                unchecked.append(file)
    return Plan(directory, api.endpoint, tuple(there), tuple(unchecked), tuple(wanted), licences)


def carry_out(what: Plan, on_line: Callable[[str], None]) -> None:
    """Check what is there and fetch what is missing.

    Args:
        on_line: hears what is done.

    Raises:
        DownloadError: no room, no connection, or what came is damaged. What has come stays for the next run.
    """
    missing, free = what.missing_bytes, _free_bytes(what.directory)
    if missing + SPARE_BYTES > free:
        raise DownloadError(
            f"{what.directory} has {_size(free)} free, and {_size(missing + SPARE_BYTES)} are needed: make room, or take "
            "another --dir"
        )
    with _alone_in(what.directory):
        wanted = list(what.wanted)
        for file in what.unchecked:
            if _digest(file, file.path) == file.digest:
                _enter(file, what.directory)
                on_line(f"{file.path}: checked")
            else:
                on_line(f"{file.path}: damaged or another version, fetched again")
                wanted.append(file)
        for file in wanted:
            _fetch(file, what)
            on_line(f"{file.path}: fetched and checked")


def _matching(source: Source, info: ModelInfo, directory: Path) -> Iterator[RemoteFile]:
    """The files of a repository that a source names."""
    siblings = [sibling for sibling in info.siblings or () if not sibling.rfilename.startswith(".")]
    for pattern in source.files:
        found = [sibling for sibling in siblings if fnmatch.fnmatchcase(sibling.rfilename, pattern)]
        if not found:
            raise DownloadError(
                f"{source.repository} has no file {pattern}: it may have been renamed; correct it in {resources.download_table()}"
            )
        for sibling in found:
            digest = sibling.lfs.sha256 if sibling.lfs is not None else sibling.blob_id
            assert digest is not None
            assert sibling.size is not None
            assert info.sha is not None
            path = directory / source.directory / sibling.rfilename
            if not path.resolve().is_relative_to(directory.resolve()):
                raise DownloadError(f"{source.repository} has a file {sibling.rfilename!r}, which would leave {directory}")
            yield RemoteFile(source, info.sha, sibling.rfilename, sibling.size, digest, path)


def _fetch(file: RemoteFile, what: Plan) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    url = hf_hub_url(file.source.repository, file.name, revision=file.revision, endpoint=what.endpoint)
    with _explained(f"{file.source.repository}/{file.name}", what.endpoint), file.part.open("ab") as part:
        if part.tell() > file.size_bytes:
            part.truncate(0)
        http_get(
            url,
            part,
            resume_size=part.tell(),
            headers=build_hf_headers(),
            expected_size=file.size_bytes,
            displayed_filename=file.path.name,
        )
    if _digest(file, file.part) != file.digest:
        file.part.unlink()
        raise DownloadError(f"{file.path} came damaged and was removed: run the same command again")
    file.part.replace(file.path)
    _enter(file, what.directory)


def _digest(file: RemoteFile, path: Path) -> str:
    """Of what lies at ``path``, in the kind that the hub gives for the file."""
    is_git = len(file.digest) == 40
    digest: Any = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False) if is_git else hashlib.sha256()
    hidden = None if file.size_bytes >= BAR_FROM_BYTES else True
    with (
        path.open("rb") as content,
        tqdm(total=file.size_bytes, unit="B", unit_scale=True, desc=f"checking {file.path.name}", disable=hidden) as bar,
    ):
        while block := content.read(HASH_BYTES):
            digest.update(block)
            bar.update(len(block))
    found: str = digest.hexdigest()
    return found


# The ledger


def _key(file: RemoteFile, directory: Path) -> str:
    return str(file.path.relative_to(directory))


def _record(file: RemoteFile) -> dict[str, Any]:
    return {"digest": file.digest, "modified_ns": file.path.stat().st_mtime_ns}


def _read_ledger(directory: Path) -> dict[str, Any]:
    """Damaged, it counts as empty: everything is checked again then."""
    with contextlib.suppress(OSError, ValueError):
        ledger = json.loads((directory / LEDGER_FILE).read_text(encoding="utf-8"))
        if isinstance(ledger, dict):
            return ledger
    return {}


def _enter(file: RemoteFile, directory: Path) -> None:
    ledger = _read_ledger(directory) | {_key(file, directory): _record(file)}
    part = directory / f"{LEDGER_FILE}.part"
    part.write_text(json.dumps(ledger, indent=1), encoding="utf-8")
    part.replace(directory / LEDGER_FILE)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Two downloads into one place would write into the same parts."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".avatar-rtc-download.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"another download into {directory} is going on: wait for it, or end it") from None
        yield


# What goes wrong


@contextlib.contextmanager
def _explained(what: str, endpoint: str) -> Iterator[None]:
    """Say what an error of the hub, the network or the disk means."""
    try:
        yield
    except hub_errors.GatedRepoError:
        raise DownloadError(
            f"{what} wants its terms accepted: do so on {endpoint}, then 'hf auth login', and run the same command again"
        ) from None
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError, hub_errors.EntryNotFoundError):
        raise DownloadError(
            f"{endpoint} has no {what}, or shows it only to those who are logged in ('hf auth login'). "
            f"Where it has moved, correct {resources.download_table()}"
        ) from None
    except hub_errors.HfHubHTTPError as error:
        raise DownloadError(
            f"{endpoint} answered {error.response.status_code} for {what}: try again later, what has come stays"
        ) from None
    except (httpx2.HTTPError, hub_errors.OfflineModeIsEnabled) as error:
        raise DownloadError(
            f"{endpoint} cannot be reached, or the connection broke ({error or type(error).__name__}). Is this machine online? "
            "Run the same command again, what has come stays. HF_ENDPOINT names a mirror."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"the disk is full ({what}): make room and run the same command again, it goes on") from None
        if error.errno is None:  # the library's own: what came is shorter than was said
            raise DownloadError(f"{what} broke off: run the same command again, it goes on") from None
        raise


def _stated_licence(info: ModelInfo, endpoint: str) -> str:
    stated = info.card_data.get("license") if info.card_data is not None else None
    return f"{stated} (says the repository)" if stated else f"not stated; see {endpoint}/{info.id} before you use it"


def _free_bytes(directory: Path) -> int:
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _size(num_bytes: int) -> str:
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if num_bytes >= bytes_:
            return f"{num_bytes / bytes_:.2f} {unit}"
    return f"{num_bytes} B"
