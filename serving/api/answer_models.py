"""What the endpoints answer, as models: for the document at /openapi.json, and nothing beside them.

Answers are not made by these; a test holds them to what comes over the wire.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """A JSON object with these keys and no others."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    """Why a request was not answered; param: the field at fault."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(Answer):
    """What is answered in place of everything else."""

    error: ErrorDetail


class Health(Answer):
    """A server that has generated a token."""

    status: Literal["Healthy"]


class Life(Answer):
    """A server that answers, whatever its engine does."""

    status: Literal["Alive"]


class ModelAnswer(Answer):
    """A name that may be asked; root: the version behind it, or an adapter's base."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelsAnswer(Answer):
    """All names that may be asked."""

    object: Literal["list"]
    data: list[ModelAnswer]


class CompletionUsage(Answer):
    """What a completion cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TokenScore(Answer):
    """A token with the logarithm of its probability."""

    token: str
    logprob: float | None
    bytes: list[int]


class ChosenToken(TokenScore):
    """A token of an answer, and the likeliest in its place."""

    top_logprobs: list[TokenScore]


class ChatLogprobs(Answer):
    """The tokens of a chat completion."""

    content: list[ChosenToken]
    refusal: None


class AnsweredFunction(Answer):
    """The function that a call names; arguments: a JSON object as text."""

    name: str
    arguments: str


class AnsweredCall(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: AnsweredFunction


class AnsweredMessage(Answer):
    """The assistant's turn; content: None where it calls tools and says nothing."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[AnsweredCall] = Field(default_factory=list)


class ChatChoice(Answer):
    """One continuation of a conversation."""

    index: int
    message: AnsweredMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(Answer):
    """What /v1/chat/completions answers; system_fingerprint: of the adapter's weights."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: CompletionUsage


class TextLogprobs(Answer):
    """The tokens of a text completion, each list in their order."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Answer):
    """One continuation of a text."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class TextCompletion(Answer):
    """What /v1/completions answers."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[TextChoice]
    usage: CompletionUsage


class OutputText(Answer):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[ChosenToken]


class OutputMessage(Answer):
    """What was said."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[OutputText]


class OutputCall(Answer):
    """A call of a tool."""

    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: Literal["completed"]


class IncompleteDetails(Answer):
    """Why an answer ends before its end."""

    reason: Literal["max_output_tokens"]


class ResponseFault(Answer):
    """Why a response has failed; told in streams alone."""

    code: str
    message: str


class ResponseUsage(Answer):
    """What a response cost, in tokens."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class ResponseAnswer(Answer):
    """What /v1/responses answers: the items of its output, and what was asked for."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    output: list[OutputMessage | OutputCall]
    error: ResponseFault | None
    incomplete_details: IncompleteDetails | None
    usage: ResponseUsage | None
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    reasoning: dict[str, None]
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: Literal["none", "auto", "required"] | dict[str, str]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"]


class KaitoAnswer(Answer):
    """What /chat answers."""

    Result: str


class TokensAnswer(Answer):
    """A text's tokens; token_strs: as the vocabulary has them, where they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class TextAnswer(Answer):
    """The text of tokens."""

    prompt: str


class VersionAnswer(Answer):
    """A model that is loaded; digest: sha256 of an adapter's weights.

    in_memory: whether it answers at once, or after it has come back from the disk.
    """

    version: str
    parent: str | None
    digest: str
    in_memory: bool


class CanaryAnswer(Answer):
    """A version that is tried out, and how it has done beside the one that serves."""

    version: str
    share: float
    verdict: str
    reason: str
    requests: int
    failed: int
    seconds_per_token: float | None
    seconds_per_token_serving: float | None


class NameAnswer(Answer):
    """A name, and what answers to it; former: what a rollback goes to."""

    name: str
    version: str
    former: str | None
    canary: CanaryAnswer | None


class AdaptersAnswer(Answer):
    """What is loaded, and what answers to each name."""

    versions: list[VersionAnswer]
    names: list[NameAnswer]
