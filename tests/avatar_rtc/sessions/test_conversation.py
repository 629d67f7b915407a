"""The life of replies as a table: commands and marks in, actions and events out. Neither I/O nor time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from avatar_rtc.media.buffer import MarkReached
from avatar_rtc.sessions.conversation import (
    ENGINE_FAILED,
    MAX_PUSHED_LINES,
    MAX_WAITING_LINES,
    Conversation,
    Playhead,
    Push,
    Silence,
)
from model.chunk import Mark
from model.errors import PromptError
from signaling.vocabulary import (
    AudioCleared,
    AudioStarted,
    AvatarState,
    Error,
    EventError,
    OutputText,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    TranscriptDelta,
    UserMessage,
)

FPS = 25
WORD_S = 0.4


class Stage:
    """Drives a conversation: an engine that takes every line but those that say so, and a player that says word by word."""

    def __init__(self, *, is_long: bool = False, max_queued_replies: int = 8) -> None:
        self.conversation = Conversation(
            FPS,
            max_queued_replies=max_queued_replies,
            open_reply_timeout_s=30.0,
            voices={"deep": "a deep voice"},
            is_long=lambda length_s: is_long,
        )
        self.at = Playhead(now_s=100.0)
        self.engine = True
        self.lines: list[Push] = []
        self.silenced = 0
        self.events: list[Any] = []
        self.conversation.came()
        self._collect()
        self.events.clear()

    def send(self, text: str = "", *, reply_id: str | None = None, **how: Any) -> None:
        self.command(ResponseCreate(input=text, id=reply_id, **how))

    def command(self, command: ResponseCreate | ResponseCancel) -> None:
        try:
            self.conversation.receive(command, self.at)
            self.act()
            self.conversation.settle()
        finally:
            self._collect()

    def act(self) -> None:
        while (action := self.conversation.next_action(can_push=self.engine)) is not None:
            if isinstance(action, Silence):
                self.silenced += 1
                self.lines.clear()
            elif "unspeakable" in action.text:
                self.conversation.refused(action, PromptError("It cannot be said."), self.at)
            else:
                self.lines.append(action)
        self._collect()

    def generate(self) -> None:
        """All lines that the engine has come out of it."""
        for line in self.lines:
            self.conversation.generated(line.line_id)
        self.act()

    def play(self, words: int | None = None) -> None:
        """The next line is heard: so many words of it, or to its end."""
        line = self.lines[0]
        spoken = line.text.split()
        for index, word in enumerate(spoken if words is None else spoken[:words]):
            if index == 0:
                self._reach(Mark(line.line_id, "start", 0, 0))
            self._reach(Mark(line.line_id, "word", 0, 0, word))
            self._pass(WORD_S)
        if words is None:
            self.lines.pop(0)
            self._reach(Mark(line.line_id, "end", 0, 0))
        self.act()

    def kinds(self) -> list[type]:
        return [type(event) for event in self.events if not isinstance(event, AvatarState)]

    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, AvatarState)]

    def texts(self) -> list[tuple[str, str, bool]]:
        return [(e.response_id, e.text, e.more) for e in self.events if isinstance(e, OutputText)]

    def done(self) -> dict[str, ResponseDone]:
        ended = [event for event in self.events if isinstance(event, ResponseDone)]
        assert len({event.response_id for event in ended}) == len(ended), "each reply ends once"
        return {event.response_id: event for event in ended}

    def _pass(self, seconds: float) -> None:
        self.at = replace(self.at, now_s=self.at.now_s + seconds, media_s=self.at.media_s + seconds)

    def _reach(self, mark: Mark) -> None:
        self.conversation.reached(MarkReached(mark, self.at.media_s, self.at.media_s + WORD_S), self.at)
        self._collect()

    def _collect(self) -> None:
        self.events += self.conversation.take_events()
        for line_id in self.conversation.take_forgotten():
            assert not self.conversation.knows(line_id)


def test_a_reply_from_its_acceptance_to_its_end() -> None:
    stage = Stage()
    stage.send("Hello my friend.", reply_id="r", event_id="e")
    assert [line.text for line in stage.lines] == ["Hello my friend."]
    assert stage.texts() == [("r", "Hello my friend.", False)]
    stage.generate()
    stage._pass(0.5)
    stage.play()
    assert stage.kinds() == [ResponseCreated, OutputText, AudioStarted, *[TranscriptDelta] * 3, ResponseDone]
    assert stage.states() == ["thinking", "speaking", "listening"]
    assert stage.events[0] == ResponseCreated(response_id="r", mode="replace", position=0, event_id="e")
    done = stage.done()["r"]
    assert (done.status, done.heard_text, done.heard_ms) == ("completed", "Hello my friend.", 1200)
    assert (done.timings.first_audio_ms, done.timings.total_ms) == (500, 1700)
    deltas = [event for event in stage.events if isinstance(event, TranscriptDelta)]
    assert [(delta.start_ms, delta.end_ms) for delta in deltas] == [(0, 400), (400, 800), (800, 1200)]


@pytest.mark.parametrize("words", [0, 1, 2])
@pytest.mark.parametrize("how", ["cancel", "cancel by id", "replace"])
def test_an_interruption_at_each_point(words: int, how: str) -> None:
    stage = Stage()
    stage.send("one two three", reply_id="r")
    stage.generate()
    stage.play(words)
    match how:
        case "cancel":
            stage.command(ResponseCancel())
        case "cancel by id":
            stage.command(ResponseCancel(id="r"))
        case _:
            stage.send("four", reply_id="s")
    assert stage.silenced == 1
    done = stage.done()["r"]
    assert done.status == "cancelled"
    assert done.heard_text == " ".join(["one", "two"][:words])
    assert done.heard_ms == round(words * WORD_S * 1000)
    cleared = [event for event in stage.events if isinstance(event, AudioCleared)]
    assert cleared == ([AudioCleared(response_id="r", heard_ms=done.heard_ms)] if words else [])
    stage.conversation.reached(MarkReached(Mark("r#0", "word", 0, 0, "three"), 9.0, 9.4), stage.at)
    assert not stage.conversation.take_events(), "what comes late of it is nobody's"
    if how == "replace":
        assert [line.text for line in stage.lines] == ["four"]
        stage.generate()
        stage.play()
        assert stage.done()["s"].status == "completed"
    assert stage.states()[-1] == "listening"


def test_before_its_line_is_with_the_engine_a_reply_ends_without_silence() -> None:
    stage = Stage()
    stage.engine = False
    stage.send("one", reply_id="r")
    stage.command(ResponseCancel())
    assert (stage.silenced, stage.done()["r"].status) == (0, "cancelled")


def test_queued_replies_are_pushed_when_those_before_are_generated() -> None:
    stage = Stage()
    for reply_id in "abc":
        stage.send(f"say {reply_id}", reply_id=reply_id, mode="queue")
    assert [event.position for event in stage.events if isinstance(event, ResponseCreated)] == [0, 1, 2]
    assert [line.text for line in stage.lines] == ["say a"]
    stage.generate()
    assert [line.text for line in stage.lines] == ["say a", "say b"]
    stage.command(ResponseCancel(id="c"))
    assert stage.silenced == 0, "it was not with the engine"
    stage.generate()
    stage.play()
    stage.play()
    assert {reply_id: done.status for reply_id, done in stage.done().items()} == {
        "a": "completed",
        "b": "completed",
        "c": "cancelled",
    }


def test_pieces_are_said_sentence_by_sentence_and_end_with_the_last() -> None:
    stage = Stage()
    stage.send("Let me th", reply_id="r", mode="append", more=True)
    assert not stage.lines
    stage.send("ink. The ans", reply_id="r", mode="append", more=True)
    assert [line.text for line in stage.lines] == ["Let me think."]
    stage.generate()
    stage.play()
    assert stage.states()[-1] == "thinking", "the rest is still to come"
    stage.send("wer.", reply_id="r", mode="append")
    assert stage.texts() == [("r", "Let me think.", True), ("r", "The answer.", False)]
    stage.generate()
    stage.play()
    assert stage.done()["r"].heard_text == "Let me think. The answer."
    for wrong, code in (({"reply_id": "r"}, "reply_closed"), ({"reply_id": "unknown"}, "unknown_reply")):
        with pytest.raises(EventError) as caught:
            stage.send("", mode="append", **wrong)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("piece", "after_s", "said"),
    [
        ("Let me look that up.", 0.1, []),
        ("Let me look that up.", 0.3, ["Let me look that up."]),
        ("Wait. Let me look", 0.0, ["Wait."]),
        ("It is at 3.", 8.0, []),
        ("Half a sen", 8.0, []),
    ],
)
@pytest.mark.parametrize("is_answer", [False, True])
def test_a_finished_sentence_is_not_held_back_for_the_next_piece(
    piece: str, after_s: float, said: list[str], is_answer: bool
) -> None:
    stage = Stage()
    if is_answer:
        stage.conversation.answer(UserMessage(text="What is it?", id="r"), stage.at)
    stage.send(piece, reply_id="r", mode="append", more=True)
    stage._pass(after_s)
    has_actions = stage.conversation.expire(stage.at)
    stage.act()
    assert [line.text for line in stage.lines] == said
    assert has_actions == (said == ["Let me look that up."])
    assert not stage.conversation.expire(stage.at), "once"
    stage.send(" Here it is.", reply_id="r", mode="append")
    assert " ".join(line.text for line in stage.lines) == f"{piece} Here it is."
    assert not stage.done()


def test_that_a_reply_is_whole_is_told_also_where_its_last_piece_is_empty_or_does_not_come() -> None:
    stage = Stage()
    for reply_id in "ab":
        stage.send("One two. ", reply_id=reply_id, mode="append", more=True)
        stage.send("Three", reply_id=reply_id, mode="append", more=True)
    stage.send(reply_id="a", mode="append")
    stage.generate()
    stage._pass(31)
    stage.conversation.expire(stage.at)
    stage.act()
    assert stage.texts() == [("a", "One two.", True), ("a", "Three", False), ("b", "One two.", True), ("b", "Three", False)]

    stage = Stage()
    stage.send("One two.\n", reply_id="r", mode="append", more=True)
    stage.send(reply_id="r", mode="append")
    assert stage.texts() == [("r", "One two.", True), ("r", "", False)]


def test_text_that_comes_faster_than_it_is_said_waits_and_is_bounded() -> None:
    stage = Stage()
    sent: list[str] = []
    heard: list[str] = []

    def flood() -> None:
        while len(sent) < 10_000:
            stage.send(f"Word{len(sent)}. ", reply_id="r", mode="append", more=True)
            sent.append(f"Word{len(sent)}.")

    def play() -> None:
        while stage.lines:
            heard.append(stage.lines[0].text)
            stage.conversation.generated(stage.lines[0].line_id)
            stage.play()

    with pytest.raises(EventError, match="sentences wait already") as caught:
        flood()
    assert caught.value.code == "queue_full"
    assert len(stage.lines) == MAX_PUSHED_LINES
    assert len(sent) <= MAX_PUSHED_LINES + MAX_WAITING_LINES + 1, "and one that may go on"
    play()
    stage.send(reply_id="r", mode="append")
    play()
    assert heard == sent, "nothing is lost, and in order"


def test_a_reply_whose_last_piece_does_not_come_is_closed() -> None:
    stage = Stage()
    stage.send("Half a sen", reply_id="r", mode="append", more=True)
    stage._pass(29)
    assert not stage.conversation.expire(stage.at)
    stage._pass(2)
    assert stage.conversation.expire(stage.at)
    stage.act()
    assert [line.text for line in stage.lines] == ["Half a sen"]


def test_a_line_that_cannot_be_said_is_refused_to_who_sent_it() -> None:
    stage = Stage()
    with pytest.raises(EventError) as caught:
        stage.send("unspeakable", reply_id="r")
    assert caught.value.code == PromptError.code
    assert stage.done()["r"].status == "failed"
    assert not [event for event in stage.events if isinstance(event, Error)]

    stage = Stage()
    stage.send("first", reply_id="a")
    stage.send("unspeakable", reply_id="b", mode="queue", event_id="e")
    stage.generate()  # only now the engine has a look at it
    (error,) = [event for event in stage.events if isinstance(event, Error)]
    assert error.event_id == "e"
    assert stage.done()["b"].status == "failed"


def test_an_engine_that_dies_fails_what_it_had_and_what_waits_goes_on() -> None:
    stage = Stage()
    stage.send("one two", reply_id="a")
    stage.send("three", reply_id="b", mode="queue")
    stage.play(1)
    stage.engine = False
    stage.conversation.stream_lost(stage.at)
    stage._collect()
    done = stage.done()["a"]
    assert (done.status, done.code, done.message, done.heard_text) == ("failed", "engine_failed", ENGINE_FAILED, "one")
    assert stage.states()[-1] == "idle"
    stage.lines.clear()
    stage.engine = True
    stage.conversation.came()
    stage.act()
    assert stage.states()[-1] == "thinking"
    stage.generate()
    stage.play()
    assert stage.done()["b"].heard_text == "three"


def test_what_stood_still_was_not_heard() -> None:
    stage = Stage()
    stage.send("one two three", reply_id="r")
    stage.generate()
    stage.play(1)
    stage.at = replace(stage.at, media_s=stage.at.media_s + 2, held_frames=2 * FPS)
    stage.command(ResponseCancel())
    assert stage.done()["r"].heard_ms == 400


def test_a_prompt_brings_its_scene_and_voice_with_its_first_line() -> None:
    stage = Stage()
    stage.send("A man. <S>One.<E> <S>Two.<E> <AUDCAP>deep<ENDAUDCAP>", reply_id="r")
    first, second = stage.lines
    assert (first.scene, first.voice, second.scene, second.voice) == ("A man.", "a deep voice", None, None)


def test_what_would_wait_for_too_long_is_cut_into_sentences() -> None:
    stage = Stage(is_long=True)
    stage.send("One two. Three four! Five?")
    assert [line.text for line in stage.lines] == ["One two.", "Three four!", "Five?"]


def test_a_wait_is_told_once_and_again_when_it_was_wrong() -> None:
    stage = Stage()
    stage.send("one")
    for wait_s, now_s in ((3.0, 100.0), (2.9, 100.1), (6.0, 100.2), (None, 100.3)):
        stage.conversation.waits(wait_s, now_s)
    stage._collect()
    assert [e.ready_in_ms for e in stage.events if isinstance(e, AvatarState) and e.ready_in_ms] == [3000, 6000]


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (ResponseCreate(input="x", id="used"), "duplicate_reply"),
        (ResponseCreate(input="A scene <S>never closed"), "bad_prompt"),
        (ResponseCreate(input="word " * 2000), "bad_prompt"),
        (ResponseCreate(input="x" * 5000, mode="append", more=True), "bad_prompt"),
        (ResponseCreate(input="x", mode="queue"), "queue_full"),
        (ResponseCancel(id="nobody"), "unknown_reply"),
    ],
)
def test_what_cannot_be_carried_out_changes_nothing(command: ResponseCreate | ResponseCancel, code: str) -> None:
    stage = Stage(max_queued_replies=1)
    stage.send("first", reply_id="used")
    stage.send("second", reply_id="other", mode="queue")
    stage.events.clear()
    with pytest.raises(EventError) as caught:
        stage.command(command)
    assert caught.value.code == code
    assert not stage.events
    assert stage.silenced == 0
    stage.generate()
    stage.play()
    assert stage.done()["used"].status == "completed"
