"""A hub on loopback: just enough of its HTTP interface to download one model."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def fake_hub(models: dict[str, Path], gated: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serve directories under hub ids. Yields the endpoint and the list of files, with ranges, asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, body: bool) -> None:
            path = self.path.split("?")[0].removeprefix("/")
            if gated:
                return self._refuse("GatedRepo", 403)
            for name, directory in models.items():
                if path.startswith(f"api/models/{name}/"):
                    return self._send(self._describe(name, directory, path), "application/json", body)
                for prefix in (f"{name}/resolve/{COMMIT}/", f"{name}/resolve/main/"):
                    if path.startswith(prefix):
                        return self._send_file(directory, path.removeprefix(prefix), body)
            return self._refuse("RepoNotFound")

        def _send_file(self, directory: Path, file: str, body: bool) -> None:
            asked.append(file)
            if not (directory / file).is_file():
                return self._refuse("EntryNotFound")
            data = (directory / file).read_bytes()
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if part is None:
                return self._send(data, "binary/octet-stream", body)
            start, stop = int(part[1]), min(int(part[2]) + 1, len(data))
            asked[-1] += f" {start}-{stop}"
            extra = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            return self._send(data[start:stop], "binary/octet-stream", body, 206, extra)

        def _refuse(self, code: str, status: int = 404) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _describe(self, name: str, directory: Path, path: str) -> bytes:
            files = sorted(file for file in directory.rglob("*") if file.is_file())
            if "/tree/" in path:
                tree = [
                    {"type": "file", "path": str(f.relative_to(directory)), "size": f.stat().st_size, "oid": "0" * 40}
                    for f in files
                ]
                return json.dumps(tree).encode()
            siblings = [{"rfilename": str(file.relative_to(directory))} for file in files]
            return json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}).encode()

        def _send(
            self, data: bytes, kind: str, body: bool, status: int = 200, extra: Mapping[str, str] = MappingProxyType({})
        ) -> None:
            self.send_response(status)
            for header, value in extra.items():
                self.send_header(header, value)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
