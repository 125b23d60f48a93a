"""Generated parts of docs/training.md: every key of a run file, from the tables that read it."""

from pool_keys import table

from muster.spec.training import (
    BatchTable,
    DataTable,
    ExchangeTable,
    LinksTable,
    LoraTable,
    OptimizerTable,
    TrainingRun,
)

TABLES = (
    ("At the top of the file", TrainingRun),
    ("`[data]`", DataTable),
    ("`[batch]`", BatchTable),
    ("`[optimizer]`", OptimizerTable),
    ("`[links]`", LinksTable),
    ("`[exchange]`", ExchangeTable),
    ("`[lora]`", LoraTable),
)


def keys() -> str:
    return "\n\n".join(f"{title}:\n\n{table(model)}" for title, model in TABLES)
