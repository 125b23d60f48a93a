"""`POST /v1/responses`, and the stored ones where the operator lets answers be stored. Knows how the parts fit."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from muster.api.answer import EventStream, Json, JsonAnswer
from muster.api.conversation import prepare
from muster.api.description import GENERATION, refusals
from muster.api.framing import RESPONSES
from muster.api.responses.fields import ResponsesRequest
from muster.api.responses.form import ResponseForm
from muster.api.responses.store import ResponseStore
from muster.api.serving import Serving, Visit
from muster.api.structured import constrained
from muster.errors import Unsupported
from muster.text.calls import Message


def response_routes(serving: Serving) -> APIRouter:
    router = APIRouter()
    keep_s = serving.options.store_responses_s
    store = ResponseStore(keep_s) if keep_s else None

    @router.post(
        "/v1/responses", summary="Continue a conversation (Responses)", responses=GENERATION, response_model=None
    )
    async def create_response(body: ResponsesRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        serving.check_model(body.model)
        body.refuse_unsupported()
        options = body.options(serving)
        before = _before(store, visit, body)
        conversation = await constrained(serving, visit, body.read(before), body.structure)
        choices = await prepare(serving, visit, conversation, options)
        # Instructions are not handed on: the next request brings its own.
        said = conversation.messages[body.instructions is not None :]

        def keep(response: Json, answer: Message) -> None:
            assert store is not None, "only called where there is one"
            store.keep(visit.owner, response, (*said, answer))

        form = ResponseForm(serving, visit, body, keep if store is not None and body.store is not False else None)
        if body.stream:
            return EventStream(visit, form.events(choices), serving.options.silence_s, RESPONSES)
        return JsonAnswer(visit, lambda: form.whole(choices))

    if store is not None:
        router.include_router(_stored_routes(store))
    return router


def _stored_routes(store: ResponseStore) -> APIRouter:
    router = APIRouter()

    @router.get("/v1/responses/{response_id}", summary="A stored response", responses=refusals(404))
    async def retrieve_response(response_id: str, request: Request) -> Json:
        return store.find(request.state.muster.owner, response_id).response

    @router.delete("/v1/responses/{response_id}", summary="Forget a stored response", responses=refusals(404))
    async def delete_response(response_id: str, request: Request) -> Json:
        store.forget(request.state.muster.owner, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    return router


def _before(store: ResponseStore | None, visit: Visit, body: ResponsesRequest) -> tuple[Message, ...]:
    if body.previous_response_id is None:
        return ()
    if store is None:
        raise Unsupported(
            "This server stores no responses (its operator may, with --store-responses); leave out "
            "previous_response_id, and send what was said before as input.",
            "previous_response_id",
        )
    return store.find(visit.owner, body.previous_response_id).messages
