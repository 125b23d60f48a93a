"""`muster plan`: which machine should do what, and what will come of it. Reads options; the searches are in `plan/`.

Nothing slow begins before everything that was written has been checked.
"""

from muster.cli.options import AdminToken, DataDir, HeadUrl, Json
from muster.cli.output import progress
from muster.cli.plan_options import (
    Budget,
    Compress,
    Deadline,
    Dtype,
    Explain,
    Length,
    Lock,
    Microbatch,
    Model,
    Optimizer,
    OutputTokens,
    Picture,
    Pins,
    PoolName,
    PromptTokens,
    Rate,
    Recompute,
    Replicas,
    SavePool,
    Schedule,
    Seed,
    Sequences,
    Stages,
    Wanted,
    check_belongs,
    check_objective,
    serve_workload,
    train_workload,
)


def plan(
    model: Model,
    pool: PoolName,
    objective: Wanted = None,
    dtype: Dtype = None,
    rate: Rate = None,
    deadline: Deadline = None,
    prompt_tokens: PromptTokens = 512,
    output_tokens: OutputTokens = 128,
    budget: Budget = None,
    pin: Pins = None,
    sequences: Sequences = None,
    length: Length = None,
    microbatch: Microbatch = None,
    optimizer: Optimizer = None,
    schedule: Schedule = None,
    recompute: Recompute = False,
    compress: Compress = False,
    replicas: Replicas = None,
    stages: Stages = None,
    seed: Seed = 0,
    explain: Explain = False,
    picture: Picture = None,
    lock: Lock = None,
    save_pool: SavePool = None,
    head: HeadUrl = None,
    token: AdminToken = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Plan MODEL for a pool: who holds which layers, how fast that will be, what it costs, and what limits it."""
    from muster.cli.find_head import find_head
    from muster.cli.live_pool import live_pool
    from muster.cli.plan_inputs import check_outputs, find_pool, find_shape
    from muster.cli.plan_work import Files, carry_out
    from muster.cli.planning import Question, read_pins

    serve = serve_workload(prompt_tokens, output_tokens, rate, deadline)
    wanted = check_objective(objective, serve, budget)
    said = {"sequences": sequences, "length": length, "microbatch": microbatch, "optimizer": optimizer}
    said |= {"schedule": schedule, "recompute": recompute}
    counts = {"replicas": replicas, "stages": stages, "compress": compress}
    check_belongs(wanted, **said, **counts, rate=rate, deadline=deadline, budget=budget, pin=pin)
    train = train_workload(**said)
    check_outputs(picture, lock, save_pool)
    with progress(as_json) as bars:
        bars.add_task(f"reading {model} and {pool}", total=None)
        found, text = find_pool(pool, lambda: live_pool(find_head(head, token, folder=data_dir)))
        shape = find_shape(model, dtype, found.nodes)
    pins = read_pins(pin or (), found, shape)
    question = Question(shape, found, wanted, serve, train, pins, budget, compress, replicas, stages, seed)
    carry_out(question, Files(picture, lock, save_pool, text), explain, as_json)
