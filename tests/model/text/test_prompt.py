from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import PromptError
from model.text.prompt import MAX_PROMPT_CHARS, Prompt, parse_prompt


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("Hello,  nice \n\n\n to meet you.", Prompt(None, ("Hello, nice\n\nto meet you.",), None)),
        ("A man\nin a park. <S>One\n- two<E>", Prompt("A man in a park.", ("One\n- two",), None)),
        ("I <3 you, 1 < 2 <s>", Prompt(None, ("I <3 you, 1 < 2 <s>",), None)),
        ("<S>Hi.<E>", Prompt(None, ("Hi.",), None)),
        (
            "A man in a library. <S>Hello.<E> <AUDCAP>a deep voice, rain<ENDAUDCAP>",
            Prompt("A man in a library.", ("Hello.",), "a deep voice, rain"),
        ),
        (
            "A man. <S>One.<E> He smiles. <S>Two.<E><AUDCAP>deep<ENDAUDCAP> Night.",
            Prompt("A man. He smiles. Night.", ("One.", "Two."), "deep"),
        ),
    ],
)
def test_grammar(text: str, prompt: Prompt) -> None:
    assert parse_prompt(text) == prompt


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("A man.<S>Hello.", "<E> is missing"),
        ("Hello.<E>", "<E> closes nothing"),
        ("<S>a<ENDAUDCAP>", "<ENDAUDCAP> closes nothing"),
        ("<S>a <S>b<E>", "inside <S>"),
        ("<S> <E>", "Nothing between <S> and <E>"),
        ("<AUDCAP>deep<ENDAUDCAP>", "no line to say"),
        ("<S>a<E><AUDCAP>b<ENDAUDCAP><AUDCAP>c<ENDAUDCAP>", "more than one <AUDCAP>"),
        ("x" * (MAX_PROMPT_CHARS + 1), f"limit is {MAX_PROMPT_CHARS}"),
    ],
)
def test_errors_say_what_to_do(text: str, says: str) -> None:
    with pytest.raises(PromptError, match=re.escape(says)) as caught:
        parse_prompt(text)
    assert caught.value.code == "bad_prompt"


@given(st.lists(st.sampled_from(["<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>", "words", " ", "é"]), max_size=12))
def test_any_text_is_a_prompt_with_lines_or_a_prompt_error(pieces: list[str]) -> None:
    with contextlib.suppress(PromptError):
        prompt = parse_prompt("".join(pieces))
        assert prompt.lines
        assert all(line.strip() for line in prompt.lines)
