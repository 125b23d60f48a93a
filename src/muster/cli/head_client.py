"""HTTP to a running head, for the verbs. Turns refusals and silence into `MusterError`s; knows nothing of terminals."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx

from muster.errors import LinkDown, MusterError, NotAllowed, from_code


class HeadClient:
    """A head's HTTP door. `token` opens `/admin`, `key` opens `/v1`."""

    def __init__(
        self, url: str, token: str | None = None, key: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._key = key
        self._http = httpx.Client(base_url=self.url, timeout=httpx.Timeout(10, read=120), transport=transport)

    def close(self) -> None:
        self._http.close()

    def reachable(self) -> bool:
        """Whether a head answers here, and can serve."""
        try:
            answer = self._http.get("/health", timeout=2)
            return answer.status_code < 500 and "model" in answer.json()
        except (httpx.HTTPError, ValueError, TypeError):
            return False

    def models(self) -> list[str]:
        return [entry["id"] for entry in self.model_entries()]

    def model_entries(self) -> list[dict[str, Any]]:
        """What the head says of each model that it serves; the name is its `id`."""
        entries = self._ask("GET", "/v1/models", self._key).get("data")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "id" in entry for entry in entries):
            raise self._no_head()
        return entries

    def status(self) -> dict[str, Any]:
        return self._ask("GET", "/admin/status", self._token)

    def nodes(self) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = self._ask("GET", "/admin/nodes", self._token)["nodes"]
        return nodes

    def pool_file(self) -> str:
        """The pool as its machines measured it, in TOML."""
        return self._answer("GET", "/admin/pool", self._token).text

    def receipts(self, request: str) -> bytes:
        """What machines have signed of a request, as a file."""
        return self._answer("GET", f"/admin/receipts/{quote(request, safe='')}", self._token).content

    def story(self) -> str:
        """The pool's last few hundred events, in words."""
        return self._answer("GET", "/admin/story", self._token).text

    def act(self, node: str, action: str) -> dict[str, Any]:
        """`action` is drain, ban, unban or forget."""
        return self._ask("POST", f"/admin/nodes/{node}/{action}", self._token)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Chunks of a streamed completion, in order."""
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        try:
            with self._http.stream("POST", path, json=body, headers=_bearer(self._key)) as response:
                if response.is_error:
                    response.read()
                    raise self._refused(response)
                yield from _chunks(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._silent(error) from error

    def _refused(self, response: httpx.Response) -> MusterError:
        """The head's words, but where a secret is missing, the option that would have brought it."""
        error = _error(response)
        if not isinstance(error, NotAllowed):
            return error
        if response.request.url.path.startswith("/admin") and self._token is None:
            return NotAllowed(
                f"The head at {self.url} asks for its admin token; pass it with --token (it is in the file admin.token "
                "of the head's data directory), or name that directory with --data-dir."
            )
        if not response.request.url.path.startswith("/admin") and self._key is None:
            return NotAllowed(f"The head at {self.url} asks for an API key; pass one with --key or MUSTER_API_KEY.")
        return error

    def _ask(self, method: str, path: str, secret: str | None) -> dict[str, Any]:
        answer = self._answer(method, path, secret)
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._no_head()
        return found

    def _answer(self, method: str, path: str, secret: str | None) -> httpx.Response:
        try:
            response = self._http.request(method, path, headers=_bearer(secret))
        except httpx.HTTPError as error:
            raise self._silent(error) from error
        if response.is_error:
            raise self._refused(response)
        return response

    def _no_head(self) -> LinkDown:
        return LinkDown(f"What answers at {self.url} is no head of Muster; name the head's address with --head.")

    def _silent(self, error: httpx.HTTPError) -> LinkDown:
        reason = str(error) or type(error).__name__
        return LinkDown(
            f"No head answers at {self.url} ({reason}); start one with `muster serve MODEL` or name it with --head."
        )


def _bearer(secret: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"} if secret else {}


def _chunks(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if not line.startswith("data:") or line == "data: [DONE]":
            continue
        chunk = json.loads(line[5:])
        if "error" in chunk:
            raise _said(chunk["error"])
        yield chunk


def _error(response: httpx.Response) -> MusterError:
    """The head's own sentence, as the kind of error that it was."""
    try:
        return _said(response.json()["error"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return MusterError(f"The head answered {response.status_code} without saying why; see its log.")


def _said(error: dict[str, Any]) -> MusterError:
    return from_code(str(error.get("code")), str(error["message"]))
