"""The body of KAITO's /chat, with the options of transformers' generate."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, WithJsonSchema, field_validator, model_validator

from serving.api.messages import ChatMessage
from serving.api.protocol import (
    ONE_OR_MANY_STOPS,
    Body,
    Count,
    Flag,
    Minimum,
    Neutral,
    SamplingOptions,
    Stop,
    StopIds,
    Whole,
    nullable,
    taken_too,
    without_neutral,
)

_ID = {"type": "integer"}
_ONE_OR_MANY_IDS = {"anyOf": [_ID, {"type": "array", "items": _ID, "maxItems": 64}]}
# Options of transformers' generate that KAITO's examples send, at the values that change nothing.
_GENERATE_NEUTRAL: Neutral = {
    "bad_words_ids": (None, []),
    "diversity_penalty": (None, 0),
    "early_stopping": (None, False),
    "encoder_no_repeat_ngram_size": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "length_penalty": (None, 1),
    "no_repeat_ngram_size": (None, 0),
    "num_beam_groups": (None, 1),
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "output_scores": (None, False),
    "remove_invalid_values": (None, False),
    "return_dict_in_generate": (None, False),
    "typical_p": (None, 1),
    "use_cache": (None, True),
}


def _kwargs_documented(schema: dict[str, Any]) -> None:
    nullable(schema, but=("min_new_tokens", "min_length"))
    taken_too(schema, _GENERATE_NEUTRAL)


def _chat_documented(schema: dict[str, Any]) -> None:
    schema["properties"] |= GenerateKwargs.model_json_schema()["properties"]


class GenerateKwargs(SamplingOptions):
    """Options of /chat, named as transformers' generate names them.

    max_length counts the prompt too. Sampling is on where do_sample or a sampling option says so.
    """

    model_config = ConfigDict(json_schema_extra=_kwargs_documented)

    max_new_tokens: Count | None = None
    max_length: Count | None = None
    min_new_tokens: Minimum = 0
    min_length: Minimum = 0
    do_sample: Flag | None = None
    top_k: Minimum | None = None
    stop_strings: Annotated[Stop, WithJsonSchema(ONE_OR_MANY_STOPS)] = ()
    eos_token_id: Annotated[StopIds, WithJsonSchema(_ONE_OR_MANY_IDS)] = ()
    pad_token_id: Whole | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, fields: Any) -> Any:
        return without_neutral(fields, _GENERATE_NEUTRAL) if isinstance(fields, dict) else fields

    @field_validator("eos_token_id", "stop_strings", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | int | float) else value or []


class ChatRequest(Body):
    """POST /chat: a prompt or messages.

    A prompt is put as a user's turn to a model that has a chat template, and continued as it is by
    one that has none. Options of generate may also stand beside the prompt, as in later KAITO.
    """

    model_config = ConfigDict(json_schema_extra=_chat_documented)

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    model: str | None = None
    return_full_text: Flag | None = None
    clean_up_tokenization_spaces: Flag | None = None
    prefix: str | None = None
    handle_long_generation: Literal["hole"] | None = None
    generate_kwargs: GenerateKwargs = Field(default_factory=GenerateKwargs)

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, fields: Any) -> Any:
        options = {*GenerateKwargs.model_fields, *_GENERATE_NEUTRAL} & fields.keys()
        nested = fields.get("generate_kwargs") or {}
        if not options or not isinstance(nested, dict):
            return fields
        for key in options & nested.keys():
            if nested[key] != fields[key]:
                raise ValueError(f"{key} is given twice, with two values; give it once")
        nested = {**nested, **{key: fields[key] for key in options}}
        rest = {key: value for key, value in fields.items() if key not in options}
        return {**rest, "generate_kwargs": nested}

    @model_validator(mode="after")
    def _one_of_two(self) -> "ChatRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self
