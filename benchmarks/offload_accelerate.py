"""One run of `accelerate`'s disk offload in a process of its own, for `offload.py`: as its documentation says.

    python offload_accelerate.py MODEL BATCH CONTEXT STEPS MEMORY_BYTES OFFLOAD_FOLDER

Each of BATCH sequences has CONTEXT tokens in its cache, of random content, and gets STEPS more. Prints the seconds of
each step as a line of JSON.
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM, DynamicCache


def main() -> None:
    model, batch, context, steps, memory, folder = sys.argv[1:]
    torch.set_num_threads(2)
    loaded = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.bfloat16, device_map="auto", max_memory={"cpu": int(memory)}, offload_folder=folder
    )
    config = loaded.config
    cache = DynamicCache()
    shape = (int(batch), config.num_key_value_heads, int(context), config.hidden_size // config.num_attention_heads)
    for layer in range(config.num_hidden_layers):
        cache.update(
            torch.empty(shape, dtype=torch.bfloat16).normal_(),
            torch.empty(shape, dtype=torch.bfloat16).normal_(),
            layer,
        )
    ids = torch.randint(3, 1000, (int(batch), 1), generator=torch.Generator().manual_seed(0))
    seconds = []
    with torch.inference_mode():
        for _ in range(int(steps)):
            began_s = time.perf_counter()
            output = loaded(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids = output.logits[:, -1].argmax(-1, keepdim=True)
            seconds.append(time.perf_counter() - began_s)
    print(json.dumps({"steps_s": seconds}))


if __name__ == "__main__":
    main()
