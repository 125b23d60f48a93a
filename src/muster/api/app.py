"""The application: every route behind the gate. Knows how the parts fit, and nothing else."""

from fastapi import FastAPI

from muster import __version__
from muster.api.admin import PoolAdmin, admin_routes
from muster.api.anthropic.routes import message_routes
from muster.api.backend import Backend
from muster.api.chat import chat_routes
from muster.api.completions import completion_routes
from muster.api.description import describe
from muster.api.errors import install_error_handlers
from muster.api.gate import Gate
from muster.api.health import health_routes
from muster.api.keys import KeyStore
from muster.api.models import model_routes
from muster.api.ollama.routes import ollama_routes
from muster.api.responses.routes import response_routes
from muster.api.serving import Serving, ServingOptions
from muster.api.tokenize import tokenize_routes
from muster.metrics import Metrics
from muster.text.tokenizer import Tokenizer


def create_app(
    backend: Backend,
    tokenizer: Tokenizer,
    *,
    keys: KeyStore | None = None,
    admin: PoolAdmin | None = None,
    admin_token: str = "",
    metrics: Metrics | None = None,
    options: ServingOptions | None = None,
) -> FastAPI:
    """Build the ASGI application. Without `keys` it is open, but only to requests addressed to this machine.

    `/admin` exists where there are both `admin` and `admin_token`.
    """
    metrics = metrics or Metrics()
    metrics.watch_pool(backend.status)
    serving = Serving(backend, tokenizer, metrics, options or ServingOptions())
    app = FastAPI(title="Muster", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    install_error_handlers(app)
    for routes in (
        chat_routes,
        completion_routes,
        response_routes,
        message_routes,
        ollama_routes,
        tokenize_routes,
        model_routes,
        health_routes,
    ):
        app.include_router(routes(serving))
    if admin is not None and admin_token:
        app.include_router(admin_routes(admin, admin_token))
    describe(app, serving.options.strict_fields)
    app.add_middleware(Gate, metrics=metrics, options=serving.options, keys=keys)
    return app
