"""`muster receipts REQUEST`: what the machines of the pool have signed of their work on a request, as one file."""

from pathlib import Path
from typing import Annotated

import typer

from muster.cli.find_head import find_head
from muster.cli.options import AdminToken, DataDir, HeadUrl, Json
from muster.cli.output import out, plain, show_json
from muster.cli.waiting import waiting
from muster.errors import InvalidRequest

Asked = Annotated[str, typer.Argument(help="The request's id: the `id` of its answer, or its x-request-id header.")]
Out = Annotated[Path | None, typer.Option("--to", help="Where to write the file; by default REQUEST.receipts.json.")]


def receipts(
    request: Asked,
    to: Out = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write down what the machines that served a request have signed of it; `muster verify` checks the file.

    The file holds the tokens of prompt and answer where the head still knows them.
    """
    remote = find_head(head, token, folder=data_dir)
    with waiting(f"asking {remote.url}", as_json):
        content = remote.receipts(request)
    path = to or Path(f"{''.join(c if c.isalnum() or c in '-_' else '_' for c in request)}.receipts.json")
    try:
        path.write_bytes(content)
    except OSError as error:
        raise InvalidRequest(f"The receipts cannot be written to {path} ({error.strerror}).", "to") from None
    if as_json:
        show_json({"file": str(path), "bytes": len(content)})
    else:
        out.print(plain(f"Wrote {path} ({len(content)} bytes); check it with `muster verify {path}`."))
