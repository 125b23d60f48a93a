"""`POST /v1/messages` and `/v1/messages/count_tokens`. Knows how the parts fit, and nothing else."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from muster.api.answer import EventStream, Json, JsonAnswer
from muster.api.anthropic.fields import CountRequest, MessagesRequest
from muster.api.anthropic.form import MessageForm
from muster.api.conversation import count_tokens, prepare
from muster.api.description import GENERATION, refusals
from muster.api.framing import MESSAGES
from muster.api.serving import Serving, Visit
from muster.api.structured import constrained


def message_routes(serving: Serving) -> APIRouter:
    router = APIRouter()

    @router.post(
        "/v1/messages", summary="Continue a conversation (Anthropic)", responses=GENERATION, response_model=None
    )
    async def create_message(body: MessagesRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        serving.check_model(body.model)
        body.refuse_unsupported()
        options = body.options(serving)
        conversation = await constrained(serving, visit, body.conversation, body.structure)
        choices = await prepare(serving, visit, conversation, options)
        form = MessageForm(serving, visit, options.stops)
        if body.stream:
            return EventStream(visit, form.events(choices), serving.options.silence_s, MESSAGES)
        return JsonAnswer(visit, lambda: form.whole(choices))

    @router.post(
        "/v1/messages/count_tokens", summary="Tokens of a conversation", responses=refusals(404, 408, 413, 429)
    )
    async def count_message_tokens(body: CountRequest) -> Json:
        serving.check_model(body.model)
        body.refuse_unsupported()
        return {"input_tokens": await count_tokens(serving, body.conversation)}

    return router
