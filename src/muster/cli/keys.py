"""`muster keys add|list|revoke`: who may use the OpenAI door. Works on the store directly, head running or not."""


import typer

app = typer.Typer(help="Hand out API keys and take them back.", no_args_is_help=True)
