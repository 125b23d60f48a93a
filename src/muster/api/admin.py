"""`/admin`: the pool seen and steered by its operator. Asks for the admin token, whatever the keys say.

Knows nodes only by their ids; what is behind is a small protocol.
"""

from collections.abc import Mapping, Sequence
from hmac import compare_digest
from typing import Any, Literal, Protocol

from fastapi import APIRouter, Depends, Request
from starlette.responses import PlainTextResponse, Response

from muster.api.answer import Json
from muster.api.description import refusals
from muster.api.keys import bearer_key
from muster.errors import NotAllowed


class PoolAdmin(Protocol):
    def status(self) -> Mapping[str, Any]: ...

    def nodes(self) -> Sequence[Mapping[str, Any]]: ...

    def story(self) -> str:
        """The last few hundred events of the pool and what was done about each. Without prompts, tokens or secrets."""

    async def pool_file(self) -> str:
        """The pool as measured, in TOML. Raises `MusterError` where nobody has measured anything yet."""

    async def receipts(self, request: str) -> bytes:
        """What was signed of a request, as a file. Raises `MusterError` where there is nothing."""

    async def drain(self, node: str) -> Mapping[str, Any]:
        """Let the node finish and leave. Raises `MusterError` for an unknown node."""

    async def ban(self, node: str) -> Mapping[str, Any]:
        """Put the node out and refuse it from now on. Raises `MusterError` for an unknown node."""

    async def unban(self, node: str) -> Mapping[str, Any]:
        """Let the node in again. Raises `MusterError` for an unknown node."""

    async def trust(self, node: str) -> Mapping[str, Any]:
        """Take what the node claims as it is. Raises `MusterError` for an unknown node."""

    async def distrust(self, node: str) -> Mapping[str, Any]:
        """Have the node show what it claims. Raises `MusterError` for an unknown node."""

    async def forget(self, node: str) -> Mapping[str, Any]:
        """Remember a node that is gone no more. Raises `MusterError` for one that is here, banned or unknown."""


class Toml(Response):
    media_type = "application/toml"


def admin_routes(admin: PoolAdmin, token: str) -> APIRouter:
    def check_token(request: Request) -> None:
        if not compare_digest(bearer_key(request.headers.get("authorization")).encode(), token.encode()):
            raise NotAllowed("That is not this head's admin token; pass the content of its admin.token file.")

    router = APIRouter(prefix="/admin", dependencies=[Depends(check_token)], responses=refusals(404, 503))

    @router.get("/status", summary="The pool's state")
    async def status() -> Json:
        return dict(admin.status())

    @router.get("/nodes", summary="All known nodes")
    async def nodes() -> Json:
        return {"nodes": [dict(node) for node in admin.nodes()]}

    @router.get("/pool", summary="The pool as measured, as a pool file (TOML)", response_class=Toml)
    async def pool() -> Toml:
        return Toml(await admin.pool_file())

    @router.get("/story", summary="The pool's last few hundred events, in words", response_class=PlainTextResponse)
    async def story() -> PlainTextResponse:
        return PlainTextResponse(admin.story())

    @router.get("/receipts/{request}", summary="What machines have signed of a request (JSON file)")
    async def receipts(request: str) -> Response:
        return Response(await admin.receipts(request), media_type="application/json")

    @router.post("/nodes/{node}/{action}", summary="Drain, ban, unban, trust, distrust or forget a node")
    async def act(node: str, action: Literal["drain", "ban", "unban", "trust", "distrust", "forget"]) -> Json:
        acts = {
            "drain": admin.drain,
            "ban": admin.ban,
            "unban": admin.unban,
            "trust": admin.trust,
            "distrust": admin.distrust,
            "forget": admin.forget,
        }
        return dict(await acts[action](node))

    return router
