"""Packed links in a whole pool: checked before anybody is served, told in the status, refused where they harm."""

from dataclasses import replace
from pathlib import Path

from muster.cost.codec_table import codecs_called
from muster.plan.quick.tables import PlanOptions
from muster.spec.request import Request
from muster.spec.sampling import Sampling
from tests.flows.live_pool import JOB, LivePool


def test_a_pool_with_packed_links_serves_and_says_what_they_change_or_why_it_does_not(tmp_path: Path) -> None:
    options = replace(JOB, planning=PlanOptions(codecs=codecs_called("bf16")))
    with LivePool(tmp_path, "tiny", options=options) as pool:
        route = pool.until_serving()
        assert {link.codec.name for link in route.pipeline.codecs} == {"bf16"}
        assert len(route.pipeline.codecs) == len(route.pipeline.stages) - 1
        tokens = pool.ask([Request("a", tuple(range(20)), Sampling(max_tokens=8, temperature=0.0, ignore_eos=True))])
        assert len(tokens["a"]) == 8
        status = pool.status()
        assert {link["codec"] for link in status["codecs"]} == {"bf16"}
        (check,) = status["codec_checks"]
        assert check["passed"]
        assert check["positions"] >= 1000
        assert 0 < check["divergence"] < 1e-3


def test_a_codec_that_changes_too_much_is_refused_with_its_figures(tmp_path: Path) -> None:
    options = replace(JOB, planning=PlanOptions(codecs=codecs_called("int4")))
    with LivePool(tmp_path, "tiny", options=options) as pool:
        pool.until("a refusal", lambda: bool(pool.service.status()["codec_checks"]))
        status = pool.status()
        assert not status["ready"]
        assert "int4 on the links leaves the likeliest token the same" in status["reason"]
        assert "--codec int8" in status["reason"]
