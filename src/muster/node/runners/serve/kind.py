"""From an assignment to a stage that serves: pages beside the weights, an engine or a follower on top."""

import time
from typing import Any

from muster.compress.registry import PLAIN
from muster.cost.memory import DRAFT_PAGE, draft_bytes, draft_cache_tokens, stage_bytes, workspace_of
from muster.cost.swapping import host_bytes
from muster.errors import Unsupported
from muster.model.cache import KVCache
from muster.model.stage import Stage
from muster.node.island.address import host_towards
from muster.node.island.gathering import Island
from muster.node.island.joint import JointCache, JointStage
from muster.node.runners.base import Kind, Place, Runner
from muster.node.runners.serve.accept import check_settings
from muster.node.runners.serve.calibrating import CalibratingFirst, CalibratingLater, StageParts
from muster.node.runners.serve.first import FirstStage
from muster.node.runners.serve.later import LaterStage
from muster.node.runners.serve.leading import Leading
from muster.node.runners.serve.member import MemberStage
from muster.node.runners.serve.receipts import RingReceipts, Signer, Watched
from muster.node.runners.serve.resend import Unclosed
from muster.node.runners.serve.ring import RingPlace
from muster.node.runners.thread import ComputeThread
from muster.serve.constrain import Constraints
from muster.serve.engine import Engine
from muster.serve.follower import Follower
from muster.serve.guess.draft import DraftGuesser
from muster.serve.guess.guesser import Guesser
from muster.serve.guess.guessing import Guessing
from muster.serve.guess.ngrams import NgramGuesser
from muster.serve.options import EngineOptions, most_in_flight
from muster.serve.stage import PagedCache, RunsLayers
from muster.serve.swapping import cache_of
from muster.spec.model_shape import ModelShape
from muster.wire.messages.placement import Assign


def needed_bytes(assign: Assign, shape: ModelShape) -> int:
    """Weights, pages and workspace together."""
    work = assign.pipeline.serve
    mine = assign.mine
    if mine.memory.offloads:
        if shape.few_bits or shape.packing:  # the loader of such stages knows plain numbers alone
            raise Unsupported("A stage that keeps a part on disk does so with plain weights and a plain cache only.")
        return mine.memory.device_bytes
    return stage_bytes(shape, mine.first, mine.last, work.cache_tokens, workspace_of(work), mine.degree)


def host_bytes_of(assign: Assign, shape: ModelShape) -> int:
    """Beside that, in host memory."""
    if assign.mine.memory.offloads:
        return assign.mine.memory.host_bytes
    return host_bytes(shape, assign.mine.first, assign.mine.last, assign.pipeline.serve)


async def build(place: Place) -> Runner:
    if place.assign.rank(place.node) > 0:
        return await _build_member(place)
    return await (_build_first(place) if place.assign.index == 0 else _build_later(place))


async def _build_first(place: Place) -> Runner:
    assign, work = place.assign, place.assign.pipeline.serve
    guessers: list[Guesser] = [NgramGuesser()]
    if work.draft is not None:
        guessers.append(await place.load_draft(work.draft, draft_bytes, _draft_guesser))

    def assemble(own: Stage, shape: ModelShape) -> tuple[Engine[Any], StageParts]:
        options = EngineOptions.of(work, shape.max_context, assign.epoch)
        stage, cache, constraints = *_shared(assign, own), _constraints(place, own)
        guessing = Guessing(guessers, time.monotonic)
        parts = StageParts(stage, cache, work.num_pages, options.prefill_tokens, options.max_context, PLAIN, outgoing)
        return Engine(stage, cache, options=options, constraints=constraints, guessing=guessing), parts

    outgoing = place.coder(place.node, _next(assign))
    engine, parts = await place.load(
        lambda shape: needed_bytes(assign, shape), assemble, lambda shape: host_bytes_of(assign, shape)
    )
    ring, thread = await _ring_place(place), ComputeThread(assign.epoch, place.speed)
    first = FirstStage(ring, engine, outgoing.encode, thread, _receipts(place, ring))
    return await _leading(
        place, CalibratingFirst(first, ring, parts, thread) if assign.pipeline.codecs else first, parts
    )


def _draft_guesser(stage: Stage, shape: ModelShape) -> DraftGuesser[KVCache]:
    return DraftGuesser(stage, stage.new_cache(draft_cache_tokens(shape) // DRAFT_PAGE, DRAFT_PAGE))


async def _build_later(place: Place) -> Runner:
    assign, work = place.assign, place.assign.pipeline.serve

    def assemble(own: Stage, shape: ModelShape) -> tuple[Follower[Any], StageParts, Watched | None]:
        stage, cache, constraints = *_shared(assign, own), _constraints(place, own)
        parts = StageParts(stage, cache, work.num_pages, work.prefill_tokens, shape.max_context, incoming, outgoing)
        watched = Watched(stage) if own.is_last and place.identity is not None else None
        return Follower(watched or stage, cache, assign.epoch, work.prefill_tokens, constraints), parts, watched

    incoming, outgoing = place.coder(_previous(assign), place.node), place.coder(place.node, _next(assign))
    follower, parts, watched = await place.load(
        lambda shape: needed_bytes(assign, shape), assemble, lambda shape: host_bytes_of(assign, shape)
    )
    ring, thread = await _ring_place(place), ComputeThread(assign.epoch, place.speed)
    later = LaterStage(ring, follower, incoming.decode, outgoing.encode, thread, _receipts(place, ring), watched)
    return await _leading(
        place, CalibratingLater(later, ring, parts, thread) if assign.pipeline.codecs else later, parts
    )


async def _build_member(place: Place) -> Runner:
    assign, work = place.assign, place.assign.pipeline.serve
    stage, cache = await place.load(
        lambda shape: needed_bytes(assign, shape),
        lambda stage, shape: (stage, cache_of(stage, work)),
        lambda shape: host_bytes_of(assign, shape),
    )
    thread = ComputeThread(assign.epoch, place.speed)
    return MemberStage(await _island(place), stage, cache, work, thread)


def _shared(assign: Assign, stage: Stage) -> tuple[RunsLayers[Any], PagedCache]:
    """The stage and its cache as whoever schedules uses them."""
    cache = cache_of(stage, assign.pipeline.serve)
    return (JointStage(stage), JointCache(cache)) if assign.mine.degree > 1 else (stage, cache)


async def _leading(place: Place, runner: Runner, parts: StageParts) -> Runner:
    """`runner`, where others hold its stage too: together with them."""
    if not isinstance(parts.stage, JointStage):
        return runner
    parts.stage.island = await _island(place)
    return Leading(runner, parts.stage.island)


async def _island(place: Place) -> Island:
    assign = place.assign
    members = assign.mine.members
    towards = members[1:] if place.node == members[0] else members[:1]
    addresses = {address.node: address for address in assign.peers}
    sends = {node: await place.reach(node) for node in towards}
    return Island(assign, place.node, host_towards(addresses[towards[0]]), sends)


def _constraints(place: Place, stage: Stage) -> Constraints | None:
    """Where tokens are chosen."""
    end_ids = place.assign.pipeline.serve.eos_token_ids
    return Constraints(place.vocabulary, end_ids, stage.vocab_size) if stage.is_last else None


async def _ring_place(place: Place) -> RingPlace:
    assign = place.assign
    nodes = assign.pipeline.nodes()
    are_between = assign.index == 0 and len(nodes) > 2
    kept, kept_apart = Unclosed(), Unclosed()
    return RingPlace(
        epoch=assign.epoch,
        head=place.head,
        previous=_previous(assign),
        send=await place.reach(_next(assign), kept.again) if len(nodes) > 1 else None,
        first=nodes[0],
        is_last=assign.index == len(nodes) - 1,
        send_to_last=await place.reach(nodes[-1], kept_apart.again) if are_between else None,
        max_steps=most_in_flight(assign.pipeline.serve),
        kept=kept,
        kept_apart=kept_apart,
    )


def _receipts(place: Place, ring: RingPlace) -> RingReceipts | None:
    """Nothing crosses a boundary in a ring of one."""
    if place.identity is None or ring.send is None:
        return None
    assign, behind = place.assign, place.head if ring.is_last else _next(place.assign)
    mine = assign.mine
    signer = Signer(place.identity, assign.manifest, assign.dtype, mine.first, mine.last, behind, place.tell)
    return RingReceipts(ring, signer)


def _next(assign: Assign) -> str:
    return assign.stages[(assign.index + 1) % len(assign.stages)].node


def _previous(assign: Assign) -> str:
    return assign.stages[assign.index - 1].node


SERVE = Kind(check_settings, build)
