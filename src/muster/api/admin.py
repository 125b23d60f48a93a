"""The operator's door: the pool at a glance, and who should leave. Knows HTTP; the pool decides what follows.

    GET  /admin/status              what `muster status` draws
    GET  /admin/nodes               {"nodes": [...]}
    POST /admin/nodes/{id}/drain    finish what runs there, then let it go
    POST /admin/nodes/{id}/ban      out at once, and never again

Every path asks for the admin token as `Authorization: Bearer`, also from loopback: a web page open in a browser on this
machine can reach loopback too, but cannot read the token's file.
"""

from hmac import compare_digest
from typing import Any, Protocol

from fastapi import APIRouter, Depends, Request

from muster.errors import InvalidRequest, NotAllowed


class NoSuchNode(InvalidRequest):
    status = 404
    code = "node_not_found"


class Pool(Protocol):
    """What the operator may see and do. Answers are plain JSON values."""

    def status(self) -> dict[str, Any]:
        """`model`, `ready`, `reason`, `epoch`, `active_requests`, `nodes`, and `placement`: stages in ring order, each
        with `node`, `name`, `region`, `first`, `last` and, where measured, `latency_s` to the next stage."""

    def nodes(self) -> list[dict[str, Any]]:
        """Each with `id`, `name`, `region`, `state`, `memory_bytes`, `round_trip_s` or None, `layers` or None."""

    async def drain(self, node: str) -> None: ...

    async def ban(self, node: str) -> None: ...


def admin_router(pool: Pool, token: str) -> APIRouter:
    def operator_only(request: Request) -> None:
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not compare_digest(shown.strip().encode(), token.encode()):
            raise NotAllowed(
                "This door is the operator's; pass the token in the head's admin.token file with --token, "
                "or run the command on the head's machine."
            )

    def known(node: str) -> str:
        if node not in {entry["id"] for entry in pool.nodes()}:
            raise NoSuchNode("No such node is known here; `muster nodes list` shows those that are.", "node")
        return node

    router = APIRouter(prefix="/admin", dependencies=[Depends(operator_only)], include_in_schema=False)

    @router.get("/status")
    def status() -> dict[str, Any]:
        return pool.status()

    @router.get("/nodes")
    def nodes() -> dict[str, Any]:
        return {"nodes": pool.nodes()}

    @router.post("/nodes/{node}/drain")
    async def drain(node: str) -> dict[str, Any]:
        await pool.drain(known(node))
        return {"node": node, "action": "drain"}

    @router.post("/nodes/{node}/ban")
    async def ban(node: str) -> dict[str, Any]:
        await pool.ban(known(node))
        return {"node": node, "action": "ban"}

    return router
