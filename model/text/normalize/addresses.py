"""Addresses, names of files, handles and hashtags."""

from __future__ import annotations

import re

from model.text.normalize.characters import SPOKEN_SYMBOLS
from model.text.normalize.rule import Rules
from model.text.normalize.shapes import any_of

RULES = Rules("Addresses and file names", only_with="@/#.\\\\_~")

_SIGNS = {
    ".": "dot",
    "/": "slash",
    "\\": "backslash",
    "-": "dash",
    "_": "underscore",
    ":": "colon",
    "?": "question mark",
    "~": "tilde",
}
_SPELLED = frozenset(
    "www uk io ai tv de edu jp eu ch ca au nl fr js ts py md pdf csv yml html css png jpg jpeg svg mp mkv exe docx xlsx "
    "pptx sh cpp rs rb php xml "
    "sql ipynb tsx jsx gz txt tgz dll iso aws api ssh ftp usb url".split()
)
_EXTENSIONS = (
    "js ts py md txt pdf csv json yaml yml html css png jpg jpeg gif svg webp mp3 mp4 wav mkv zip tar gz exe doc docx xls "
    "xlsx ppt pptx sh c cpp h rs "
    "go java rb php toml ini cfg log xml sql ipynb tsx jsx env lock bin dll iso bak conf"
).split()
_TOP_LEVEL = (
    "com org net edu gov io ai dev app uk de info tv me co jp fr ch eu ca au nl gg ly xyz fm cloud page site online store tech blog news"
).split()
_WORDS = {"readme": "read me", "gitignore": "git ignore", "localhost": "local host", "txt": "T.X.T"}


def _said(address: str) -> str:
    words = []
    for piece in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^A-Za-z\d]", address):
        name = _SIGNS.get(piece, piece)
        lower = name.lower()
        if lower in _WORDS:
            words.append(_WORDS[lower])
        elif lower in _SPELLED:
            words.append(".".join(name.upper()) if len(name) > 1 else name)
        else:
            words.append(SPOKEN_SYMBOLS.get(name, name if not name.isupper() or len(name) < 4 else lower))
    return " ".join(words)


@RULES.rule(
    r"(?<!\w)[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64})+",
    {"Write to ann.lee+news@mail-server.co.jp": "Write to ann dot lee plus news at mail dash server dot co dot J P"},
)
def email(m: re.Match[str]) -> str:
    """Addresses of mail are said sign by sign."""
    return _said(m.group())


@RULES.rule(
    r"(?i)<?\b(?:(?:https?|ftp|wss?)://|mailto:)[^\s\"<>]*[\w/]>?|\bwww\.[^\s\"<>]*[\w/]",
    {
        "Open https://shop.example.com/items?id=42&ref=home#top": "Open shop dot example dot com slash items",
        "https://example.com/docs/": "example dot com slash docs",
        "http://localhost:8080": "local host colon eight zero eight zero",
    },
)
def web_address(m: re.Match[str]) -> str:
    """Of a web address host and path are said, not what follows a question mark or a hash."""
    address = re.sub(r"(?i)^<?(?:(?:https?|ftp|wss?)://|mailto:)", "", m.group()).rstrip(">")
    address = re.split(r"[?#]", address)[0].rstrip("/")
    port = re.search(r":(\d+)", address)
    if port:
        address = address[: port.start()] + " : " + " ".join(port[1]) + address[port.end() :]
    return _said(address)


@RULES.rule(
    rf"(?i)(?<![\w.@])(?:[a-z][\w-]{{0,62}}\.)+(?:{any_of(_TOP_LEVEL)})(?![\w-])(?!\.\w)(?:/[\w./-]*\w)?",
    {"Visit example.org/help.": "Visit example dot org slash help."},
)
def domain(m: re.Match[str]) -> str | None:
    """So is one without http."""
    if m.group()[0].isupper() and re.search(r"\.(?:Me|Co|Info|Page|Online|Store|News|Site|Blog|Cloud|App|Tech)$", m.group()):
        return None
    return _said(m.group())


@RULES.rule(
    rf"(?<![\w.@])(?:[\w-]{{1,64}}[.]){{0,6}}[\w-]{{0,64}}[A-Za-z_][\w-]{{0,64}}\.(?:{any_of([*_EXTENSIONS, *(e.upper() for e in _EXTENSIONS)])})(?![\w-])",
    {
        "Use node.js, see README.md and report_2026-final.pdf.": (
            "Use node dot J S, see read me dot M D and report twenty twenty six final dot P D F."
        ),
        "Edit config.yaml first.": "Edit config dot yaml first.",
    },
)
def file_name(m: re.Match[str]) -> str | None:
    """The dot in a file's name is said, and its ending is spelled where it is no word; dashes and underscores are blanks."""
    stem, _, ending = m.group().rpartition(".")
    if ending in ("C", "H", "GO", "BIN", "LOG", "LOCK") or (stem[0].isupper() and ending in ("c", "h")):
        return None
    return _said(f"{re.sub(r'[_-]+', ' ', stem)}.{ending}").replace("  ", " ")


@RULES.rule(
    r"(?<![\w/.)])(?:~|\.{1,2})?/(?:[\w.-]+/)+[\w.-]*\w/?|(?<![\w/.)])~/[\w.-]*\w|\b[A-Z]:(?:\\[\w.-]+)+|(?<![\w/.)])/(?:etc|usr|home|var|tmp|bin|opt|dev)(?![\w-])",
    {"Look into /etc/hosts and ~/a.": "Look into slash etc slash hosts and tilde slash a."},
)
def path(m: re.Match[str]) -> str:
    """The slashes of a path are said."""
    return _said(m.group().rstrip("/"))


@RULES.rule(r"(?<![\w&/])([#@])([A-Za-z]\w*)", {"#Happy, says @ann_lee": "hashtag Happy, says at ann lee"})
def handle_or_hashtag(m: re.Match[str]) -> str:
    """The sign of a handle is 'at', that of a tag 'hashtag', that of a code in capitals and digits 'number'."""
    if m[1] == "#" and re.fullmatch(r"[A-Z\d]*\d[A-Z\d]*", m[2]):
        return f"number {m[2]}"
    return ("hashtag " if m[1] == "#" else "at ") + m[2].replace("_", " ")
