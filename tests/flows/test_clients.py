"""The program of the stock OpenAI client, as `make clients` runs it with those of others; here on the shared pool."""

import os
import subprocess
import sys

from tests.clients.environments import PROGRAMS, environments
from tests.flows.live_pool import LivePool

CALLS = ["can_list_models", "can_stream_a_completion", "can_stream_a_chat", "can_score_a_prompt", "can_parse_a_form"]


def test_the_stock_client_can_do_what_it_is_used_for(pool: LivePool) -> None:
    about = {"MUSTER_URL": f"{pool.server.url}/v1", "MUSTER_MODEL": pool.model.shape.name, "MUSTER_KEY": pool.key}
    command = [sys.executable, str(PROGRAMS / "openai_python.py"), *CALLS]
    ran = subprocess.run(command, env={**os.environ, **about}, capture_output=True, text=True, timeout=200, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]
    assert ran.stdout.count('"call"') == len(CALLS)


def test_every_program_belongs_to_an_environment_of_pinned_versions() -> None:
    named = [program for environment in environments() for program in environment.programs]
    written = {file.stem for file in PROGRAMS.iterdir() if file.suffix in (".py", ".mjs")} - {"calls"}
    assert sorted(named) == sorted(written)
    for environment in environments():
        mark = "==" if environment.kind == "python" else "@"
        assert environment.packages
        assert all(mark in package[1:] for package in environment.packages), environment.name
