"""Train the embedded model `tiny` from the Python standard library's own sources.

    python tools/train_tiny.py --out src/muster/model/embedded/tiny --minutes 60

A smaller model that guesses for it (`muster serve --draft`) learns its distribution instead of the next token:

    python tools/train_tiny.py --out DRAFT --log draft.jsonl --minutes 10 --layers 2 --hidden 128 --intermediate 352 \
        --tokens-per-step 2048 --teacher src/muster/model/embedded/tiny

Writes config.json, tokenizer.json, tokenizer_config.json and model.safetensors (bf16) to --out, and the training log
(JSON lines) to --log. `tools/score_tiny.py` scores the result; this file knows nothing of yardsticks.

Every file whose path hashes into the held-out share is kept from both the tokenizer and the model, whole.
"""

import argparse
import hashlib
import json
import math
import sysconfig
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

HELD_OUT_ONE_IN = 30
# Generated tables, not code: they would teach nothing and flatter every compressor.
SKIPPED_FOLDERS = {"site-packages", "__pycache__", "encodings", "pydoc_data", "lib2to3"}
END_OF_TEXT = "<|endoftext|>"


def library_files(root: Path) -> list[Path]:
    """Every UTF-8 Python source of the standard library, in a fixed order, tables left out."""
    files = []
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS & set(relative.parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if 200 <= len(text) <= 400_000:
            files.append(path)
    return files


def is_held_out(relative: str) -> bool:
    return int.from_bytes(hashlib.blake2s(relative.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def split(root: Path) -> tuple[list[Path], list[Path]]:
    """(training files, held-out files)."""
    train, held_out = [], []
    for path in library_files(root):
        (held_out if is_held_out(path.relative_to(root).as_posix()) else train).append(path)
    return train, held_out


def train_tokenizer(files: list[Path], vocab_size: int) -> Tokenizer:
    """Byte-level BPE: any text round-trips, no unknown token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((path.read_text(encoding="utf-8") for path in files), trainer)
    return tokenizer


def encode_files(tokenizer: Tokenizer, files: list[Path]) -> list[list[int]]:
    """One list of ids per file, each opened by the end-of-text token so that the model learns how a file starts."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    return [[end, *encoding.ids] for encoding in tokenizer.encode_batch([p.read_text(encoding="utf-8") for p in files])]


def batches(documents: list[list[int]], seed: int):
    """Endless random windows: send (batch, length), get ids and targets, each [batch, length].

    Every window of a batch comes from another place in the corpus: windows cut from one file in a row teach the same
    thing many times a step (tried first: at equal tokens the loss stayed half a nat higher).
    """
    corpus = torch.tensor([token for document in documents for token in document], dtype=torch.int32)
    generator = torch.Generator().manual_seed(seed)
    batch, length = yield
    starts: list[int] = []
    while True:
        if len(starts) < batch:
            # One epoch of windows that tile the corpus from a random offset, in random order.
            offset = int(torch.randint(length, (1,), generator=generator))
            tiles = torch.arange(offset, len(corpus) - length - 1, length)
            starts = tiles[torch.randperm(len(tiles), generator=generator)].tolist()
        chosen = torch.tensor([starts.pop() for _ in range(batch)])
        window = corpus[chosen[:, None] + torch.arange(length + 1)].long()
        previous = length
        batch, length = yield window[:, :-1], window[:, 1:]
        if length != previous:
            starts = []


def learning_rate_scale(progress: float, warmup: float = 0.02, cooldown: float = 0.45) -> float:
    """Warm-up, plateau, linear cool-down to nearly zero; progress in [0, 1]."""
    if progress < warmup:
        return progress / warmup
    if progress > 1 - cooldown:
        return max(0.02, (1 - progress) / cooldown)
    return 1.0


def build_model(vocab_size: int, end_of_text: int, layers: int, hidden: int, intermediate: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128,
        head_dim=64,
        max_position_embeddings=1024,
        rope_theta=10_000.0,
        tie_word_embeddings=True,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
        attn_implementation="sdpa",
    )
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            std = 0.02 if "embed" in name else 0.5 / math.sqrt(weight.shape[1])
            torch.nn.init.normal_(weight, std=std)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            torch.nn.init.zeros_(weight)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--intermediate", type=int, default=704)
    parser.add_argument("--tokens-per-step", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--teacher", type=Path, help="a model to imitate; its tokenizer is used")
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler)")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    root = Path(sysconfig.get_paths()["stdlib"])
    train_files, held_out_files = split(root)
    teacher = None
    if arguments.teacher is None:
        tokenizer = train_tokenizer(train_files, arguments.vocab)
    else:
        tokenizer = Tokenizer.from_file(str(arguments.teacher / "tokenizer.json"))
        teacher = LlamaForCausalLM.from_pretrained(arguments.teacher, dtype=torch.bfloat16).eval()
    documents = encode_files(tokenizer, train_files)
    held_out = [ids for document in encode_files(tokenizer, held_out_files) for ids in document]
    probe = torch.tensor(held_out[: 32 * 512 + 1])
    bytes_per_token = sum(p.stat().st_size for p in held_out_files) / len(held_out)

    model = build_model(
        arguments.vocab, tokenizer.token_to_id(END_OF_TEXT), arguments.layers, arguments.hidden, arguments.intermediate
    )
    hidden_weights = [w for n, w in model.named_parameters() if w.dim() == 2 and "embed" not in n]
    other_weights = [w for n, w in model.named_parameters() if w.dim() != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(hidden_weights, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(other_weights, lr=0.004, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    forward = torch.compile(model) if arguments.compile else model

    def loss_of(ids: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(input_ids=ids, use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def distance_of(ids: Tensor) -> Tensor:
        """What of the guesses is kept grows as the two distributions come together, whatever the text says."""
        with torch.inference_mode():
            wanted = teacher(input_ids=ids, use_cache=False).logits.float().softmax(-1).flatten(0, 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(input_ids=ids, use_cache=False).logits
        return cross_entropy(logits.float().flatten(0, 1), wanted.clone())

    arguments.out.mkdir(parents=True, exist_ok=True)
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    log = arguments.log.open("w")

    def record(**fields) -> None:
        log.write(json.dumps(fields) + "\n")
        log.flush()

    record(
        parameters=sum(w.numel() for w in model.parameters()),
        train_files=len(train_files),
        held_out_files=len(held_out_files),
        train_tokens=sum(map(len, documents)),
        held_out_tokens=len(held_out),
        bytes_per_token=round(bytes_per_token, 3),
        options={k: str(v) for k, v in vars(arguments).items() if k not in ("out", "log")},
    )

    source = batches(documents, arguments.seed)
    next(source)
    started = time.monotonic()
    step, tokens, running = 0, 0, 0.0
    while (progress := (time.monotonic() - started) / (arguments.minutes * 60)) < 1:
        # Short windows first: attention is cheaper, and long range matters only once short range is learned.
        length = 256 if progress < 0.5 else 512 if progress < 0.8 else 1024
        ids, targets = source.send((arguments.tokens_per_step // length, length))
        scale = learning_rate_scale(progress)
        for group, peak in zip((g for o in optimizers for g in o.param_groups), peaks, strict=True):
            group["lr"] = peak * scale
        loss = loss_of(ids, targets) if teacher is None else distance_of(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + ids.numel()
        running = loss.item() if step == 1 else 0.95 * running + 0.05 * loss.item()
        if step % 10 == 0:
            fields = {"step": step, "tokens": tokens, "minutes": round((time.monotonic() - started) / 60, 2)}
            fields |= {"loss": round(running, 4), "lr_scale": round(scale, 3)}
            if step % 100 == 0:
                with torch.no_grad():
                    nats = loss_of(probe[:-1].view(32, 512), probe[1:].view(32, 512)).item()
                fields["held_out_bits_per_byte"] = round(nats / math.log(2) / bytes_per_token, 4)
            record(**fields)
        if step % 200 == 0:
            save(model, tokenizer, arguments.out)
    save(model, tokenizer, arguments.out)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, out: Path) -> None:
    half = LlamaForCausalLM(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    half.save_pretrained(out)
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END_OF_TEXT, "bos_token": END_OF_TEXT})
    )


if __name__ == "__main__":
    main()
