"""`POST /tokenize` and `/detokenize`: what a prompt is to the model, and back. Knows no generation."""

from typing import Annotated, Any, ClassVar

from fastapi import APIRouter
from pydantic import BeforeValidator, Field

from muster.api.answer import Json
from muster.api.chat_fields import ChatMessage, ChatRequest, Variable, count_pieces
from muster.api.conversation import written_out
from muster.api.description import refusals
from muster.api.fields import RefusableFields, Strict, at_most, check_ids, check_unicode
from muster.api.prompt import MAX_COUNTED, encode_text
from muster.api.serving import Serving
from muster.errors import InvalidRequest

_READS = refusals(404, 408, 413, 429)


class TokenizeRequest(RefusableFields):
    model: str | None = None
    prompt: str | None = Field(default=None, description="A text. Send this or messages.")
    messages: Annotated[
        list[ChatMessage] | None, Field(fail_fast=True, description="As for a chat."), BeforeValidator(count_pieces)
    ] = None
    add_special_tokens: bool | None = Field(default=None, description="For a prompt; true where it is left out.")
    return_token_strs: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Variable] | None = None
    tools: Any = Field(default=None, description="As for a chat.")
    chat_template: Any = None

    unsupported: ClassVar[dict[str, tuple[object, ...]]] = {"chat_template": ()}


class DetokenizeRequest(Strict):
    model: str | None = None
    tokens: Annotated[list[int], Field(fail_fast=True), at_most(MAX_COUNTED, "tokens")]


def tokenize_routes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post("/tokenize", summary="Token ids of a text or of messages", responses=_READS)
    async def tokenize(body: TokenizeRequest) -> Json:
        serving.check_model(body.model)
        body.refuse_unsupported()
        ids = await _encode(serving, body)
        names = [serving.tokenizer.display(id)[0] for id in ids] if body.return_token_strs else None
        return {"count": len(ids), "max_model_len": serving.backend.max_context, "tokens": ids, "token_strs": names}

    @router.post("/detokenize", summary="Text of token ids", responses=_READS)
    async def detokenize(body: DetokenizeRequest) -> Json:
        serving.check_model(body.model)
        check_ids(body.tokens, serving.backend.vocab_size, "tokens")
        return {"prompt": serving.tokenizer.decode(body.tokens)}

    return router


async def _encode(serving: Serving, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Send either prompt or messages.", "prompt")
    if body.prompt is not None:
        text, special = check_unicode(body.prompt, "prompt"), body.add_special_tokens is not False
        return await encode_text(serving, text, "prompt", special, at_most=MAX_COUNTED)
    chat = ChatRequest(
        messages=body.messages or [],
        tools=body.tools,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
        chat_template_kwargs=body.chat_template_kwargs,
    )
    rendered = await written_out(serving, chat.conversation)
    return await encode_text(serving, rendered.text, "messages", rendered.add_special_tokens, at_most=MAX_COUNTED)
