"""`/api/chat`, `/api/generate`, `/api/tags` and `/api/version`, as Ollama has them. Knows how the parts fit."""

from dataclasses import replace
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from muster import __version__
from muster.api.answer import EventStream, Json, JsonAnswer
from muster.api.conversation import GenerationOptions, prepare
from muster.api.description import GENERATION_IN_LINES, refusals
from muster.api.fields import check_unicode
from muster.api.framing import LINES
from muster.api.generate import Choice, choices_of_prompt
from muster.api.ollama.fields import OllamaChatRequest, OllamaGenerateRequest, OllamaRequest
from muster.api.ollama.form import OllamaForm
from muster.api.prompt import begin, encode_text, tokens_to_generate, with_named_stops
from muster.api.serving import Serving, Visit
from muster.api.structured import checked_grammar, constrained


def ollama_routes(serving: Serving) -> APIRouter:
    router = APIRouter()
    begun = datetime.now(UTC).isoformat().replace("+00:00", "Z")

    def answer(visit: Visit, body: OllamaRequest, choices: list[Choice], chat: bool) -> Response:
        form = OllamaForm(serving, visit, chat)
        if body.stream is not False:
            return EventStream(visit, form.lines(choices), serving.options.silence_s, LINES)
        return JsonAnswer(visit, lambda: form.whole(choices))

    @router.post(
        "/api/chat", summary="Continue a conversation (Ollama)", responses=GENERATION_IN_LINES, response_model=None
    )
    async def chat(body: OllamaChatRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        _check(serving, body)
        options = body.how(serving)
        conversation = await constrained(serving, visit, body.conversation, body.structure)
        return answer(visit, body, await prepare(serving, visit, conversation, options), True)

    @router.post(
        "/api/generate", summary="Answer a prompt (Ollama)", responses=GENERATION_IN_LINES, response_model=None
    )
    async def generate(body: OllamaGenerateRequest, request: Request) -> Response:
        visit: Visit = request.state.muster
        _check(serving, body)
        options = body.how(serving)
        if body.raw:
            options = replace(
                options,
                sampling=replace(options.sampling, grammar=await checked_grammar(serving, visit, body.structure)),
            )
            choices = await _continue(serving, visit, check_unicode(body.prompt, "prompt"), options)
        else:
            conversation = await constrained(serving, visit, body.conversation, body.structure)
            choices = await prepare(serving, visit, conversation, options)
        return answer(visit, body, choices, False)

    @router.get("/api/tags", summary="The models that are served (Ollama)", responses=refusals())
    async def tags() -> Json:
        details = {
            "format": "safetensors",
            "family": "",
            "families": [],
            "parameter_size": "",
            "quantization_level": "",
        }
        return {
            "models": [
                {"name": name, "model": name, "modified_at": begun, "size": 0, "digest": "", "details": details}
                for name in serving.model_names
            ]
        }

    @router.get("/api/version", summary="The server's version (Ollama)", responses=refusals())
    async def version() -> Json:
        return {"version": __version__}

    return router


async def _continue(serving: Serving, visit: Visit, text: str, options: GenerationOptions) -> list[Choice]:
    """The choices of a text that no template is laid around."""
    prompt = begin(serving.tokenizer, await encode_text(serving, text, "prompt"), "prompt")
    max_tokens = tokens_to_generate(serving, len(prompt), options.max_tokens, None, "prompt")
    sampling = replace(with_named_stops(serving.tokenizer, options.sampling, options.stops), max_tokens=max_tokens)
    return choices_of_prompt(visit, prompt, sampling, n=1, stops=options.stops, priority=options.priority)


def _check(serving: Serving, body: OllamaRequest) -> None:
    serving.check_model(body.model.removesuffix(":latest"))
    body.refuse_unsupported()
