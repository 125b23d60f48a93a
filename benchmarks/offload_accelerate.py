"""One run of `accelerate`'s disk offload in a process of its own, for `offload.py`: as its documentation says.

    python offload_accelerate.py MODEL BATCH PROMPT NEW MEMORY_BYTES OFFLOAD_FOLDER THREADS

Prints a line of JSON with the seconds of each new token.
"""

import json
import sys
import time
from itertools import pairwise

import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, LogitsProcessorList


class Mark(LogitsProcessor):
    """Called once per step, with the logits of all sequences."""

    def __init__(self) -> None:
        self.at_s = [time.perf_counter()]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.at_s.append(time.perf_counter())
        return scores


def main() -> None:
    model, batch, prompt, new, memory, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, device_map="auto", max_memory={"cpu": int(memory)}, offload_folder=folder
    )
    ids = torch.randint(3, 1000, (int(batch), int(prompt)), generator=torch.Generator().manual_seed(0))
    mark = Mark()
    with torch.inference_mode():
        loaded.generate(
            ids,
            max_new_tokens=int(new),
            min_new_tokens=int(new),
            do_sample=False,
            logits_processor=LogitsProcessorList([mark]),
            pad_token_id=0,
        )
    print(json.dumps({"batch": int(batch), "steps_s": [after - before for before, after in pairwise(mark.at_s)]}))


if __name__ == "__main__":
    main()
