"""`GET /v1/models`: the one model that the pool serves, once for each of its names."""

import time

from fastapi import APIRouter

from muster.api.answer import Json
from muster.api.description import refusals
from muster.api.serving import Serving


def model_routes(serving: Serving) -> APIRouter:
    router = APIRouter()
    created = int(time.time())

    def describe(name: str) -> Json:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "muster",
            "root": serving.backend.model,
            "max_model_len": serving.backend.max_context,
            "chat_template": serving.tokenizer.has_chat_template and serving.tokenizer.chat_refusal is None,
        }

    @router.get("/v1/models", summary="The models that are served", responses=refusals())
    async def list_models() -> Json:
        return {"object": "list", "data": [describe(name) for name in serving.model_names]}

    @router.get("/v1/models/{model:path}", summary="One model", responses=refusals(404))
    async def retrieve_model(model: str) -> Json:
        serving.check_model(model)
        return describe(model if model in serving.model_names else serving.model)

    return router
