"""`GET /v1/models`: the one model that the pool serves."""

import time

from fastapi import APIRouter

from muster.api.answer import Json
from muster.api.description import refusals
from muster.api.serving import Serving
from muster.errors import UnknownModel
from muster.spec.model_name import model_name


def model_routes(serving: Serving) -> APIRouter:
    router = APIRouter()
    created = int(time.time())

    def describe() -> Json:
        backend = serving.backend
        return {
            "id": backend.model,
            "object": "model",
            "created": created,
            "owned_by": "muster",
            "max_model_len": backend.max_context,
            "chat_template": serving.tokenizer.has_chat_template and serving.tokenizer.chat_refusal is None,
        }

    @router.get("/v1/models", summary="The models that are served", responses=refusals())
    async def list_models() -> Json:
        return {"object": "list", "data": [describe()]}

    @router.get("/v1/models/{model:path}", summary="One model", responses=refusals(404))
    async def retrieve_model(model: str) -> Json:
        if model_name(model) != serving.backend.model:
            raise UnknownModel(
                f"This pool serves the model '{serving.backend.model}', not '{model[:200]}'; ask for the former.",
                "model",
            )
        return describe()

    return router
