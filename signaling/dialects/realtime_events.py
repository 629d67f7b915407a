"""What clients of the OpenAI Realtime API send, as far as it means something here. Whatever else they send is passed over."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from annotated_types import Len
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from signaling.dialects.frames import all_well_formed, well_formed
from signaling.vocabulary import MAX_TOOLS, Tool, ToolName

Mode = Literal["llm", "verbatim"]
"""Who makes up what is said: the language model answers the user, or the user's words are spoken as they are."""
Text = Annotated[str, BeforeValidator(lambda text: well_formed(text) if isinstance(text, str) else text)]
Id = Annotated[Text, Len(1, 128)]


class AvatarWanted(BaseModel):
    """``session.avatar``, which is ours alone: a field of it that we do not know is a mistake.

    Attributes:
        look: a preset of ``GET /v1/avatars``.
        scene: words that override it.
    """

    model_config = ConfigDict(extra="forbid")

    look: Text | None = None
    scene: Annotated[Text, Len(1)] | None = None
    mode: Mode | None = None


class _Voice(BaseModel):
    id: Text


class _Output(BaseModel):
    voice: Text | _Voice | None = None


class _Audio(BaseModel):
    output: _Output | None = None


class _Function(BaseModel):
    type: Literal["function"]
    name: ToolName
    description: Text = ""
    parameters: Annotated[dict[str, Any], BeforeValidator(lambda schema: all_well_formed(schema))] = {}


def _functions(tools: Any) -> Any:
    """Those that the client runs; what servers of others would run is passed over."""
    is_list = isinstance(tools, list)
    return [tool for tool in tools if isinstance(tool, dict) and tool.get("type") == "function"] if is_list else tools


class SessionWanted(BaseModel):
    """A ``session``, of an update, of a call and of a client secret."""

    audio: _Audio | None = None
    avatar: AvatarWanted | None = None
    instructions: Text | None = None
    tools: Annotated[list[_Function], BeforeValidator(_functions), Len(0, MAX_TOOLS)] | None = None

    @property
    def functions(self) -> list[Tool] | None:
        """The ``tools`` as our vocabulary has them."""
        if self.tools is None:
            return None
        return [Tool(name=tool.name, description=tool.description, parameters=tool.parameters) for tool in self.tools]

    @property
    def voice(self) -> str | None:
        """What ``audio.output.voice`` says."""
        voice = self.audio.output.voice if self.audio is not None and self.audio.output is not None else None
        return voice.id if isinstance(voice, _Voice) else voice

    def voice_of(self, presets: Collection[str]) -> str | None:
        """The voice, if it is a preset or a description in words. Names of OpenAI's own voices leave ours as it is."""
        return self.voice if self.voice is not None and (self.voice in presets or " " in self.voice.strip()) else None


class _Part(BaseModel):
    type: Text = ""
    text: Text | None = None
    transcript: Text | None = None


class Item(BaseModel):
    """An item that a client makes, or, with ``type`` ``item_reference``, means by its ``id``."""

    type: Text = "message"
    id: Id | None = None
    role: Literal["user", "assistant", "system"] = "user"
    content: list[_Part] | None = None
    call_id: Id | None = None
    output: Text = ""

    @property
    def text(self) -> str:
        """What is said in it."""
        return "\n".join(text for part in self.content or () if (text := part.text or part.transcript))


class ResponseWanted(BaseModel):
    """The ``response`` of ``response.create``; ``conversation`` ``none`` leaves it out of the conversation."""

    input: list[Item] | None = None
    instructions: Text = ""
    conversation: Text = "auto"
    metadata: dict[Text, Text] | None = None


class _Event(BaseModel):
    event_id: Id | None = None


class SessionUpdate(_Event):
    session: SessionWanted = Field(default_factory=SessionWanted)


class ItemCreate(_Event):
    item: Item
    previous_item_id: Id | None = None


class ItemNamed(_Event):
    """``audio_end_ms`` comes with ``conversation.item.truncate``."""

    item_id: Id
    audio_end_ms: int = 0


class ResponseCreate(_Event):
    response: ResponseWanted | None = None


class ResponseCancel(_Event):
    response_id: Id | None = None


class Bare(_Event):
    """An event in which nothing else matters."""
