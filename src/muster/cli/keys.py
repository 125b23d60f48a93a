"""`muster keys add|list|revoke`: who may use the OpenAI door. Works on the store directly, head running or not."""

from typing import Annotated

import typer

from muster.cli.options import DataDir, Json
from muster.cli.place import data_dir, database_url
from muster.cli.show import err, show_json, show_table
from muster.errors import InvalidRequest

app = typer.Typer(help="Hand out API keys and take them back.", no_args_is_help=True)
