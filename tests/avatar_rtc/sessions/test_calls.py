"""Whole calls: two real peers in one process, on the deterministic engine."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from functools import partial

import aiohttp
import av
import numpy as np
import pytest
from aiortc import RTCRtpSender

from avatar_rtc.app import Server
from avatar_rtc.client import VOICED_LEVEL, Call
from avatar_rtc.errors import CallError
from avatar_rtc.fake import FakeOptions, read_beeps, read_counter, read_flash, read_mouth, read_tone_hz, word_tone_hz
from signaling.vocabulary import (
    AudioCleared,
    AudioStarted,
    AvatarState,
    Error,
    Event,
    OutputText,
    Ping,
    Pong,
    ResponseCancel,
    ResponseCreate,
    ResponseCreated,
    ResponseDone,
    SessionClosing,
    SessionCreated,
    SessionUpdate,
    SessionUpdated,
    TranscriptDelta,
)
from testkit.hearing import Ear
from tests.support.calls import calling, make_config, serving
from tests.support.instant_engine import InstantEngine
from tests.support.lateness import Lateness, lateness

BLOCK_S = 0.32
FRAME_S = 0.04
PACKET_S = 0.02
INTERRUPT_BAR_S = BLOCK_S + 0.2
LONG = "one two three four five six seven eight nine ten eleven twelve"
TIMEOUT_S = 20
"""A safety net, not a measure: whoever waits for what should happen anyway waits so long at most."""


async def wait_done(call: Call, reply_id: str) -> ResponseDone:
    (done, *_) = await call.wait_for(lambda: call.received(ResponseDone, reply_id), TIMEOUT_S, f"{reply_id} did not end")
    assert isinstance(done, ResponseDone)
    return done


async def wait_voice(call: Call, reply_id: str) -> None:
    await call.wait_for(lambda: call.received(AudioStarted, reply_id), TIMEOUT_S, f"{reply_id} was not heard")


class Onlooker:
    """Says of each picture of a call whether its mouth is open, and which one of the stream it is."""

    def __init__(self, call: Call) -> None:
        self.is_open: list[bool] = []
        self.counters: list[int | None] = []
        self._unseen = len(call.video.pts)  # those that came before
        call.on_frame = self._look

    def _look(self, frame: av.VideoFrame) -> None:
        luma = frame.to_ndarray(format="gray")
        self.is_open.append(read_mouth(luma))
        self.counters.append(read_counter(luma))

    def last_open(self) -> int:
        """Index of the last picture of the call with an open mouth."""
        return self._unseen + max(index for index, is_open in enumerate(self.is_open) if is_open)


@dataclass
class Interruption:
    """What it took to silence a reply.

    Attributes:
        handling_s: from sending the event to hearing that it is done, by the clock, less what the event loop was late.
        voice_s: how much of the voice came after the cut, in media time, which no busy machine and no jitter buffer stretches.
        lips_s: the same of pictures with an open mouth.
    """

    done: ResponseDone
    handling_s: float
    voice_s: float
    lips_s: float


async def interrupt(
    server: Server, call: Call, onlooker: Onlooker, late: Lateness, reply_id: str, after_s: float
) -> Interruption:
    """Start a long reply, cancel it ``after_s`` of its voice were sent, and wait until all media of that time have arrived."""
    audio, video = call.audio, call.video
    (session,) = server.registry.live
    held_frames: dict[type[Event], int] = {}  # when its voice begins, and when it is cut

    def on_event(event: Event, seq: int) -> None:
        held_frames[type(event)] = session.stats()["held_frames"]

    stop = session.events.listen(on_event)
    first_packet = len(audio.pts)
    call.send(ResponseCreate(input=LONG, id=reply_id))
    await wait_voice(call, reply_id)

    def voiced() -> list[int]:
        return [index for index in range(first_packet, len(audio.pts)) if audio.level[index] > VOICED_LEVEL]

    def media_s() -> float:
        return min(audio.media_s(-1), video.media_s(-1))

    await call.wait_for(lambda: audio.ntp_at_zero_s and video.ntp_at_zero_s, TIMEOUT_S, "there were no sender reports")
    (first_voiced, *_) = await call.wait_for(voiced, TIMEOUT_S, "the voice did not arrive")
    voice_start_s = audio.media_s(first_voiced)
    await call.wait_for(lambda: media_s() > voice_start_s + after_s, TIMEOUT_S, "the voice did not go on")
    sent_s = time.monotonic()
    call.send(ResponseCancel())
    done = await wait_done(call, reply_id)
    handling_s = time.monotonic() - sent_s - late.total_s(sent_s)
    stop()
    # Where a busy machine let the voice stand still, what was heard ends so much later.
    held_s = (held_frames[ResponseDone] - held_frames[AudioStarted]) * FRAME_S
    cut_s = voice_start_s + done.heard_ms / 1000 + held_s
    await call.wait_for(lambda: media_s() > cut_s + 2 * INTERRUPT_BAR_S, TIMEOUT_S, "media stopped")
    voice_end_s = audio.media_s(voiced()[-1]) + PACKET_S
    lips_end_s = video.media_s(onlooker.last_open()) + FRAME_S
    return Interruption(done, handling_s, voice_end_s - cut_s, lips_end_s - cut_s)


async def test_a_line_is_said_with_captions_at_playout() -> None:
    async with serving() as server, calling(server) as call, lateness() as late:
        (session,) = server.registry.live
        captions: list[tuple[float, float]] = []  # when each word is played, and how much was played when its caption came

        def on_event(event: object) -> None:
            if isinstance(event, TranscriptDelta):
                (started,) = call.received(AudioStarted)
                captions.append((started.pts / 90_000 + event.start_ms / 1000, session.stats()["frames"] / 25))

        call.on_event = on_event
        asked_s = time.monotonic()
        line = await call.speak("Hello, nice to meet you.")
        late_ms = late.total_s(asked_s) * 1000
        assert line.status == "completed"
        assert line.heard_text == "Hello, nice to meet you."
        assert line.text_to_first_voiced_audio_ms is not None
        assert line.text_to_first_voiced_audio_ms - late_ms < 1000
        assert line.text_to_first_speaking_frame_ms is not None
        assert line.text_to_first_speaking_frame_ms - late_ms < 1000

        kinds = [type(event) for _, event in call.events if not isinstance(event, Pong)]
        assert kinds[:2] == [SessionCreated, AvatarState]
        of_reply = [kind for kind in kinds if kind not in (AvatarState, SessionCreated)]
        assert of_reply == [ResponseCreated, OutputText, AudioStarted, *[TranscriptDelta] * 5, ResponseDone]
        states = [event.state for event in call.received(AvatarState)]
        assert states[-3:] == ["thinking", "speaking", "listening"]

        # A caption comes when its word is played, which is up to two blocks after it was generated.
        assert len(captions) == 5
        for word_s, played_s in captions:
            assert 0 < played_s - word_s < 0.2 + late.total_s(asked_s)
        done = call.received(ResponseDone)[0]
        assert done.heard_ms == pytest.approx(line.captions[-1]["end_ms"], abs=45)
        # A loop that stands still for as long as the buffer reaches runs dry, whatever it does.
        assert done.timings.underruns == 0 or late.worst_s(asked_s) > 0.15


async def test_on_an_engine_slower_than_real_time_a_reply_waits_and_then_plays_through() -> None:
    # A chunk takes three naps of a quarter of chunk_s, for 0.32 s of media.
    async with serving(InstantEngine(chunk_s=0.6)) as server, calling(server) as call, lateness() as late:
        (session,) = server.registry.live
        await call.wait_for(lambda: session.performance.playout.policy.rtf.percentile(50) > 1, TIMEOUT_S, "the engine seems fast")
        held: list[int] = []
        call.on_event = lambda event: (
            held.append(session.performance.playout.buffer.num_held_frames) if isinstance(event, TranscriptDelta) else None
        )
        asked_s = time.monotonic()
        line = await call.speak("one two three four five six seven eight nine ten.")
        assert line.status == "completed"
        assert len(set(held)) == 1, "nothing was held between the first word and the last"

        told = [(at_s, event.ready_in_ms) for at_s, event in call.events if isinstance(event, AvatarState) and event.ready_in_ms]
        (started_s,) = [at_s for at_s, event in call.events if isinstance(event, AudioStarted)]
        told_s, ready_in_ms = told[0]
        wrong_s = abs(ready_in_ms / 1000 - (started_s - told_s))
        assert wrong_s < 0.3 * (started_s - told_s) + late.total_s(asked_s), "told in advance"
        async with aiohttp.ClientSession() as http, http.get(f"{server.address}/metrics") as response:
            counted = re.search(r'avatar_rtc_rtf_bucket\{le="1.0"\} (\d+)', await response.text())
            assert counted
            assert int(counted[1]) <= 1


@pytest.mark.parametrize("chunk_s", [0.0, 0.6])
async def test_a_new_look_says_its_first_word_itself(chunk_s: float) -> None:
    """A look is chosen and a line sent right behind it: no voice is heard from the face before."""
    async with serving(InstantEngine(chunk_s=chunk_s)) as server, calling(server) as call:
        seen: list[tuple[float, int]] = []
        voiced_s: list[float] = []
        call.on_frame = lambda frame: seen.append((call.video.media_s(-1), int(frame.to_ndarray()[256 + 40, 0])))
        call.on_sound = lambda _: voiced_s.append(call.audio.media_s(-1)) if call.audio.level[-1] > 300 else None
        await call.wait_for(
            lambda: len(seen) > 5 and call.audio.ntp_at_zero_s and call.video.ntp_at_zero_s, TIMEOUT_S, "no clock"
        )
        seen.clear()
        call.send(SessionUpdate(avatar="nina"))
        call.send(ResponseCreate(input="one two three four.", id="r"))
        await wait_done(call, "r")
        colours = [colour for at_s, colour in seen if at_s >= voiced_s[0]]
        assert len(colours) > 10
        assert max(colours) - min(colours) <= 4, "one background all along, but for what the codec makes of it"
        assert abs(colours[-1] - seen[0][1]) > 30, "another one than before"


async def test_a_long_reply_on_a_slow_engine_is_said_sentence_by_sentence() -> None:
    engine = InstantEngine(chunk_s=0.6)
    async with serving(engine, media={"max_wait_ms": 2000}) as server, calling(server) as call:
        (session,) = server.registry.live
        await call.wait_for(lambda: session.performance.playout.policy.rtf.percentile(50) > 1, TIMEOUT_S, "the engine seems fast")
        held: list[int] = []
        call.on_event = lambda event: (
            held.append(session.performance.playout.buffer.num_held_frames) if isinstance(event, TranscriptDelta) else None
        )
        line = await call.speak("One two three. Four five six. Seven eight nine. Ten eleven twelve.")
        assert line.heard_text == "One two three. Four five six. Seven eight nine. Ten eleven twelve."
        assert engine.streams[0].pushed == [
            "One two three.",
            "Four five six.",
            "Seven eight nine.",
            "Ten eleven twelve.",
        ]
        assert [len(set(held[i : i + 3])) for i in range(0, 12, 3)] == [1] * 4, "nothing is held inside a sentence"
        assert len(call.received(ResponseDone)) == 1
        states = [event.state for event in call.received(AvatarState) if event.ready_in_ms is None]
        assert states.count("thinking") > 1, "and between sentences it says that it prepares"


async def test_an_interruption_silences_voice_and_lips_within_a_block() -> None:
    async with serving() as server, calling(server) as call, lateness() as late:
        cut = await interrupt(server, call, Onlooker(call), late, "long", after_s=0.5)
        assert cut.handling_s + max(cut.voice_s, cut.lips_s) < INTERRUPT_BAR_S
        # The voice need not wait for the block: it fades within the picture that is being shown.
        assert cut.voice_s < 0.1
        assert cut.done.status == "cancelled"
        assert cut.done.heard_ms > 450
        assert cut.done.heard_text
        assert LONG.startswith(cut.done.heard_text)
        (cleared,) = call.received(AudioCleared)
        assert cleared.heard_ms == cut.done.heard_ms


async def test_a_new_line_replaces_the_old_one() -> None:
    async with serving() as server, calling(server) as call:
        call.send(ResponseCreate(input=LONG, id="again"))
        await wait_voice(call, "again")
        call.send("Short.")
        assert (await wait_done(call, "again")).status == "cancelled"
        await call.wait_for(lambda: call.received(ResponseDone)[1:], TIMEOUT_S, "the new line did not end")
        assert call.received(ResponseDone)[1].heard_text == "Short."


async def test_a_chunk_that_was_under_way_when_its_reply_was_cut_is_not_heard() -> None:
    async with serving(InstantEngine(transit_s=0.2)) as server, calling(server) as call, lateness() as late:
        onlooker = Onlooker(call)
        for number in range(3):
            cut = await interrupt(server, call, onlooker, late, f"r{number}", after_s=0.5 + number * 0.1)
            assert cut.voice_s < 0.1


async def test_queue_and_pieces_and_cancel_of_one() -> None:
    async with serving() as server, calling(server) as call:
        call.send(ResponseCreate(input="First one.", id="a", mode="queue"))
        call.send(ResponseCreate(input="Never heard.", id="b", mode="queue"))
        call.send(ResponseCreate(input="Third ", id="c", mode="append", more=True))
        call.send(ResponseCreate(input="one. And mo", id="c", mode="append", more=True))
        call.send(ResponseCancel(id="b"))
        call.send(ResponseCreate(input="re.", id="c", mode="append"))
        assert [event.position for event in call.received(ResponseCreated)] == list(range(len(call.received(ResponseCreated))))
        done = [await wait_done(call, reply_id) for reply_id in "abc"]
        assert [event.status for event in done] == ["completed", "cancelled", "completed"]
        assert done[2].heard_text == "Third one. And more."
        words = [event.text for event in call.received(TranscriptDelta)]
        assert words == ["First", "one.", "Third", "one.", "And", "more."]
        assert len(call.received(ResponseDone)) == 3

        call.send(ResponseCreate(input="late", id="c", mode="append"))
        (error,) = await call.wait_for(lambda: call.received(Error), TIMEOUT_S, "no error")
        assert error.code == "reply_closed"


async def test_speech_starts_with_the_first_sentence_of_an_open_reply() -> None:
    async with serving(limits={"open_reply_timeout_s": 2.0}) as server, calling(server) as call:
        call.send(ResponseCreate(input="A sentence. And the beginning of", id="open", mode="append", more=True))
        await wait_voice(call, "open")
        await call.wait_for(lambda: len(call.received(TranscriptDelta)) >= 2, TIMEOUT_S, "the sentence was not heard")
        assert not call.received(ResponseDone)
        # Its last piece never comes; what there is is said, and the reply ends.
        assert (await wait_done(call, "open")).heard_text == "A sentence. And the beginning of"


async def test_a_finished_sentence_is_heard_though_the_next_piece_does_not_come() -> None:
    async with serving() as server, calling(server) as call:
        call.send(ResponseCreate(input="Let me look that up.", id="open", mode="append", more=True))
        await call.wait_for(lambda: len(call.received(TranscriptDelta)) == 5, TIMEOUT_S, "the sentence was not heard")
        call.send(ResponseCreate(input=" Here it is.", id="open", mode="append"))
        assert (await wait_done(call, "open")).heard_text == "Let me look that up. Here it is."


async def test_bad_input_is_answered_and_the_call_goes_on() -> None:
    async with serving() as server, calling(server) as call:
        frames = {
            "{oops": "invalid_json",
            '{"type":"dance","event_id":"e1"}': "unknown_type",
            "  ": "empty_text",
            "x" * 100_000: "message_too_large",
            "word " * 2000: "bad_prompt",
            "A scene <S>never closed": "bad_prompt",
            "你好": "unspeakable_text",
            '{"type":"session.update","avatar":"nobody"}': "unknown_avatar",
            '{"type":"response.cancel","id":"nobody"}': "unknown_reply",
        }

        def errors_from(number: int) -> list[Error]:
            return call.received(Error)[number - 1 :]

        for number, (frame, code) in enumerate(frames.items(), start=1):
            call.send(frame)
            errors = await call.wait_for(partial(errors_from, number), TIMEOUT_S, f"no error for {frame[:40]}")
            assert errors[0].code == code
        assert call.received(Error)[1].event_id == "e1"
        line = await call.speak("Still here.")
        assert line.heard_text == "Still here."
        # The one that was accepted before its text proved unspeakable has its end, too.
        assert len(call.received(ResponseCreated)) == len(call.received(ResponseDone)) == 2


async def test_a_reply_that_found_no_room_may_come_again() -> None:
    async with serving(limits={"max_queued_replies": 1}) as server, calling(server) as call:
        for reply_id in "abc":
            call.send(ResponseCreate(input="Some words.", id=reply_id, mode="queue"))
        (error,) = await call.wait_for(lambda: call.received(Error), TIMEOUT_S, "no error")
        assert error.code == "queue_full"
        await wait_done(call, "b")
        call.send(ResponseCreate(input="Some words.", id="c", mode="queue"))
        assert (await wait_done(call, "c")).status == "completed"
        call.send(ResponseCreate(input="word " * 3000, id="d", mode="append", more=True))
        await call.wait_for(lambda: call.received(Error)[1:], TIMEOUT_S, "no error")
        assert call.received(Error)[1].code == "bad_prompt"


async def test_settings_that_change_while_the_engine_is_away_are_those_of_the_next_stream() -> None:
    engine = InstantEngine()
    async with serving(engine) as server, calling(server) as call:
        engine.crash()
        # By then the next stream has been asked for, with the old settings.
        await call.wait_for(lambda: call.received(AvatarState)[-1].state == "idle", TIMEOUT_S, "not idle")
        call.send(SessionUpdate(scene="A man on the moon.", event_id="u"))
        (updated,) = await call.wait_for(lambda: call.received(SessionUpdated), TIMEOUT_S, "no session.updated")
        assert updated.event_id == "u"
        await engine.start()
        assert (await call.speak("Back again.")).status == "completed"
        assert engine.opened[-1].scene == "A man on the moon."


async def test_a_preset_with_a_seed_is_the_same_person_in_each_call() -> None:
    engine, config = InstantEngine(), make_config()
    seeded = config.avatars[0].model_copy(update={"id": "one", "scene": "Somebody.", "seed": 23})
    unseeded = seeded.model_copy(update={"id": "any", "scene": "Anybody.", "seed": None})
    async with serving(engine, config=config.model_copy(update={"avatars": (unseeded, seeded)})) as server:
        for avatar in ("one", "one", "any", "any"):
            async with calling(server, f"?avatar={avatar}") as call:
                await call.speak("Hello.")
        assert [settings.seed for settings in engine.opened[:2]] == [23, 23]
        assert len({settings.seed for settings in engine.opened}) == 3
        async with calling(server) as call:
            await call.speak("Hello.")
            (stream,) = engine.streams
            call.send(SessionUpdate(avatar="one"))
            call.send(SessionUpdate(voice="firm-male"))
            call.send(SessionUpdate(scene="A man."))
            await call.wait_for(lambda: len(call.received(SessionUpdated)) == 3, TIMEOUT_S, "no session.updated")
            assert [settings.seed for settings in stream.updates] == [23] * 3, (
                "whoever is seen stays, as far as the scene lets it"
            )


async def test_events_are_carried_out_once() -> None:
    async with serving() as server, calling(server) as call:
        event = ResponseCreate(input="Only once.", id="r", event_id="e", mode="queue")
        for _ in range(3):
            call.send(event)
        await wait_done(call, "r")
        call.send(Ping(t=7))
        await call.wait_for(lambda: [pong for pong in call.received(Pong) if pong.t == 7], TIMEOUT_S, "no pong")
        assert len(call.received(ResponseCreated)) == 1
        assert not call.received(Error)


async def test_a_full_prompt_changes_scene_and_voice_from_then_on() -> None:
    engine = InstantEngine()
    async with serving(engine) as server, calling(server, "?avatar=adam&voice=bright-female") as call:
        assert engine.opened[0].scene.startswith("A middle-aged man with short black hair")
        assert engine.opened[0].voice == "a bright, lively female voice"
        (stream,) = engine.streams
        line = await call.speak("A man in a park. <S>First.<E> <S>Second.<E> <AUDCAP>a deep voice<ENDAUDCAP>")
        assert line.heard_text == "First. Second."
        assert (stream.updates[0].scene, stream.updates[0].voice) == ("A man in a park.", "a deep voice")
        (updated,) = call.received(SessionUpdated)
        assert (updated.scene, updated.voice) == ("A man in a park.", "a deep voice")
        call.send(SessionUpdate(voice="firm-male", event_id="u"))
        await call.wait_for(lambda: len(call.received(SessionUpdated)) == 2, TIMEOUT_S, "no session.updated")
        assert (stream.updates[1].scene, stream.updates[1].voice) == ("A man in a park.", "a firm, energetic male voice")
        assert call.received(SessionUpdated)[1].event_id == "u"


async def test_a_voice_that_the_model_cannot_use_is_told_and_replaced_by_the_default() -> None:
    engine = InstantEngine()
    engine.refuse_voice = "singing"
    async with serving(engine) as server, calling(server, "?voice=singing") as call:
        (error,) = await call.wait_for(lambda: call.received(Error), TIMEOUT_S, "no error")
        assert error.code == "bad_prompt"
        assert engine.opened[-1].voice == "a warm, clear female voice"
        call.send(SessionUpdate(voice="singing", event_id="u"))
        await call.wait_for(lambda: len(call.received(Error)) == 2, TIMEOUT_S, "no error")
        assert call.received(Error)[1].event_id == "u"
        assert (await call.speak("Still a warm voice.")).status == "completed"


async def test_a_crash_of_the_engine_fails_the_reply_and_the_call_goes_on() -> None:
    engine = InstantEngine()
    async with serving(engine) as server, calling(server) as call:
        call.send(ResponseCreate(input=LONG, id="unlucky"))
        call.send(ResponseCreate(input="Patient.", id="waiting", mode="queue"))
        await wait_voice(call, "unlucky")
        onlooker = Onlooker(call)
        engine.crash()
        done = await wait_done(call, "unlucky")
        assert (done.status, done.code) == ("failed", "engine_failed")
        assert done.message
        await call.wait_for(lambda: call.received(AvatarState)[-1].state == "idle", TIMEOUT_S, "not idle")
        first = len(onlooker.counters) + 25
        await call.wait_for(lambda: len(onlooker.counters) > first + 10, TIMEOUT_S, "pictures stopped")
        assert len(set(onlooker.counters[first:])) == 1, "the last picture is held"
        with pytest.raises(CallError, match="engine_unavailable"):
            await Call(server.address).connect()
        await engine.start()
        assert (await wait_done(call, "waiting")).heard_text == "Patient."
        assert len(call.received(ResponseDone)) == 2


async def test_what_stood_still_was_not_heard() -> None:
    engine = InstantEngine()
    async with serving(engine) as server, calling(server) as call:
        (session,) = server.registry.live
        call.send(ResponseCreate(input=LONG, id="completed"))
        await wait_voice(call, "completed")
        before = session.performance.playout.buffer.num_held_frames
        engine.chunk_s = 6.0  # as if its process were stopped in the middle of a block
        buffer = session.performance.playout.buffer
        await call.wait_for(lambda: buffer.num_held_frames > before + 12, TIMEOUT_S, "it goes on")
        engine.chunk_s = 0.0
        completed = await wait_done(call, "completed")
        held_s = (buffer.num_held_frames - before) * FRAME_S
        assert held_s > 0.5
        end_s = call.received(TranscriptDelta, "completed")[-1].end_ms / 1000
        assert completed.heard_ms / 1000 == pytest.approx(end_s - held_s, abs=0.045)

        # The same, and then it dies.
        call.send(ResponseCreate(input=LONG, id="failed"))
        await wait_voice(call, "failed")
        engine.chunk_s = 60.0
        held = session.performance.playout.buffer.num_held_frames
        await call.wait_for(lambda: session.performance.playout.buffer.num_held_frames > held + 25, TIMEOUT_S, "it goes on")
        engine.crash()
        failed = await wait_done(call, "failed")
        words_s = call.received(TranscriptDelta, "failed")[-1].end_ms / 1000
        assert failed.heard_ms / 1000 < words_s + 2 * FRAME_S, "a second longer with what was held"
        engine.chunk_s = 0.0
        await engine.start()


async def test_seats_are_limited_and_come_back() -> None:
    async with serving(limits={"max_sessions": 1}) as server:
        async with calling(server):
            other = Call(server.address)
            with pytest.raises(CallError, match=r"The only seat is taken.*\(full\)"):
                await other.connect()
            await other.close()
        async with calling(server) as call:
            assert (await call.speak("Back.")).status == "completed"
        assert server.registry.num_sessions == 0


async def test_the_seat_of_a_client_that_vanishes_is_free_when_its_time_of_grace_is_over() -> None:
    async with serving(limits={"grace_s": 4.0}) as server, calling(server) as call, lateness() as late:
        ice = call.peer.getTransceivers()[0].receiver.transport.transport
        # As kill -9 would: nothing arrives any more, and nothing says so.
        for protocol in ice._connection._protocols:
            protocol.transport.abort()
        vanished_s = time.monotonic()
        async with asyncio.timeout(TIMEOUT_S):
            while server.registry.num_sessions:  # noqa: ASYNC110 - the seat tells nobody that it is free
                await asyncio.sleep(0.02)
        took_s = time.monotonic() - vanished_s
        assert took_s > 3.9
        assert took_s - late.total_s(vanished_s) < 4.5
        call.resource = ""


async def test_shutdown_tells_the_peers_and_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    async with serving() as server, calling(server) as call:
        call.send(ResponseCreate(input=LONG, id="cut"))
        await wait_voice(call, "cut")
        await server.close()
        assert server.registry.num_sessions == 0
        assert call.received(ResponseDone, "cut")[0].status == "cancelled"
        assert call.received(SessionClosing)[0].reason == "shutdown"
        with pytest.raises(CallError, match="cannot be reached"):
            await Call(server.address).connect()
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=TIMEOUT_S)
    assert not left, left


async def test_two_calls_hear_only_their_own_lines() -> None:
    words = ("alpha", "omega")
    assert word_tone_hz(words[0]) != word_tone_hz(words[1])
    async with serving() as server, calling(server) as first, calling(server) as second:
        ears = Ear(first), Ear(second)
        await asyncio.gather(first.speak(words[0]), second.speak(words[1]))
        for call, ear, word in zip((first, second), ears, words, strict=True):
            assert [event.text for event in call.received(TranscriptDelta)] == [word]

            def is_heard(call: Call = call) -> bool:
                return any(level > VOICED_LEVEL for level in call.audio.level[:-25])

            await call.wait_for(is_heard, TIMEOUT_S, f"{word} was not heard to its end")
            windows = ear.samples[: len(ear.samples) // 4800 * 4800].reshape(-1, 4800)
            tones = [read_tone_hz(window.astype(float), 48_000) for window in windows]
            assert {tone for tone in tones if tone} == {word_tone_hz(word)}


@pytest.mark.parametrize("codec", ["VP8", "H264"])
async def test_both_video_codecs_can_be_negotiated(codec: str) -> None:
    async with serving() as server:
        call = Call(server.address)
        add = call.peer.addTransceiver

        def add_with_codec(kind: str, direction: str) -> object:
            transceiver = add(kind, direction=direction)
            if kind == "video":
                capabilities = RTCRtpSender.getCapabilities("video").codecs
                transceiver.setCodecPreferences([c for c in capabilities if c.name in (codec, "rtx")])
            return transceiver

        call.peer.addTransceiver = add_with_codec  # type: ignore[method-assign, assignment]
        try:
            await call.connect()
            assert f"{codec}/90000" in call.peer.remoteDescription.sdp
            await call.wait_for(lambda: len(call.video.pts) > 10, TIMEOUT_S, "no pictures")
        finally:
            await call.close()


async def test_reports_tell_the_media_time_of_late_pictures() -> None:
    engine = InstantEngine(options=FakeOptions(flash_and_beep=True))
    async with serving(engine, media={"video_delay_ms": 200}) as server, calling(server) as call:
        ear = Ear(call)
        flashes: list[int] = []

        def watch(frame: av.VideoFrame) -> None:
            if read_flash(frame.to_ndarray(format="gray")):
                flashes.append(len(call.video.pts) - 1)

        call.on_frame = watch

        def has_seen_and_heard() -> bool:
            reported = call.video.ntp_at_zero_s and call.audio.ntp_at_zero_s
            return bool(reported) and len(flashes) > 2 and call.audio.media_s(-1) > call.video.media_s(flashes[2]) + 0.2

        await call.wait_for(has_seen_and_heard, TIMEOUT_S, "no flashes")
        beeps_s = [ear.start_s + at for at in read_beeps(ear.samples.astype(float), 48_000)]
        skews_s = [min((call.video.media_s(flash) - beep for beep in beeps_s), key=abs) for flash in flashes[:3]]
    assert np.abs(skews_s).max() < 0.02, "by the reports, flash and beep are one moment"
