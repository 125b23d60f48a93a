"""Score the embedded model on the held-out library files, beside yardsticks, in bits per byte.

    python tools/score_tiny.py --model src/muster/model/embedded/tiny --log docs/tiny/log.jsonl --out docs/tiny

Writes scores.json, loss.png and completions.json to --out; the model card shows them. The yardsticks see the same
files: `xz -9` (as one archive, file by file, and with the training text as its prefix) and a 5-gram model
(`tools/ngram.py`) over the model's own tokens, trained on the same training files.

How the model is scored: fp32; each file on its own, opened by the end-of-text token; windows of 1024 tokens that move
by 512, so that every token is scored once and, after the first window, with at least 512 tokens before it. The bits
of a file's tokens are divided by its UTF-8 bytes. File boundaries cost nobody anything.
"""

import argparse
import json
import lzma
import math
import platform
import sysconfig
import time
from pathlib import Path

import numpy
import torch
from ngram import KneserNey
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from train_tiny import encode_files, split
from transformers import LlamaForCausalLM

WINDOW, STRIDE = 1024, 512
NGRAM_ORDER = 5
PREFIX_TOKENS, COMPLETION_TOKENS = 96, 64


def texts_of(files: list[Path]) -> list[bytes]:
    return [path.read_text(encoding="utf-8").encode() for path in files]


def num_bytes_of(files: list[Path]) -> int:
    return sum(map(len, texts_of(files)))


def xz_bits_per_byte(train: bytes, held_out: list[bytes]) -> dict[str, float]:
    """`xz -9e` on the held-out text as one archive, file by file, and what it adds to the training text's archive."""

    def size(data: bytes) -> int:
        # The default dictionary of preset 9 is 64 MiB: the whole training text stays in reach.
        return len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))

    together = b"".join(held_out)
    sizes = {
        "xz": size(together),
        "xz_each_file": sum(map(size, held_out)),
        "xz_after_training_text": size(train + together) - size(train),
    }
    return {key: 8 * value / len(together) for key, value in sizes.items()}


def ngram_bits_per_byte(train: list[list[int]], held_out: list[list[int]], vocab: int, num_bytes: int) -> float:
    model = KneserNey(NGRAM_ORDER, vocab)
    model.fit(numpy.array([token for document in train for token in document]))
    stream = numpy.array([token for document in held_out for token in document])
    bits = -numpy.log2(model.probabilities(stream))
    opens_file = numpy.cumsum([0, *map(len, held_out[:-1])])
    bits[opens_file] = 0.0  # the end-of-text token is given, to this model and to the neural one
    return float(bits.sum() / num_bytes)


@torch.inference_mode()
def file_bits(model: LlamaForCausalLM, tokens: list[int]) -> float:
    """Bits of all tokens but the first."""
    bits = 0.0
    done = 1
    for start in range(0, len(tokens), STRIDE):
        window = torch.tensor([tokens[start : start + WINDOW]])
        fresh = start + window.shape[1] - done
        if fresh <= 0:
            break
        logits = model(input_ids=window[:, :-1], use_cache=False).logits[0, -fresh:].float()
        bits += cross_entropy(logits, window[0, -fresh:], reduction="sum").item() / math.log(2)
        done += fresh
    return bits


def complete(model: LlamaForCausalLM, tokenizer: Tokenizer, files: list[Path], count: int) -> list[dict[str, str]]:
    """Greedy and sampled continuations of held-out prefixes cut from the middle of files."""
    shown = []
    long = [path for path in files if path.stat().st_size > 8000]
    for path in long[:: max(1, len(long) // count)][:count]:
        tokens = tokenizer.encode(path.read_text(encoding="utf-8")).ids
        start = min(len(tokens) // 3, max(0, len(tokens) - PREFIX_TOKENS - COMPLETION_TOKENS))
        prefix = torch.tensor([tokens[start : start + PREFIX_TOKENS]])
        truth = tokens[start + PREFIX_TOKENS : start + PREFIX_TOKENS + COMPLETION_TOKENS]
        greedy, sampled = (continue_from(model, prefix, sample) for sample in (False, True))
        shown.append(
            {
                "file": path.name,
                "prefix": tokenizer.decode(prefix[0].tolist()),
                "greedy": tokenizer.decode(greedy),
                "sampled": tokenizer.decode(sampled),
                "truth": tokenizer.decode(truth),
            }
        )
    return shown


@torch.inference_mode()
def continue_from(model: LlamaForCausalLM, prefix: Tensor, sample: bool) -> list[int]:
    torch.manual_seed(0)
    options = {"do_sample": True, "temperature": 0.6, "top_p": 0.95} if sample else {"do_sample": False}
    mask = torch.ones_like(prefix)
    out = model.generate(prefix, attention_mask=mask, max_new_tokens=COMPLETION_TOKENS, pad_token_id=0, **options)
    return out[0, prefix.shape[1] :].tolist()


def draw(log: Path, scores: dict[str, float], out: Path) -> None:
    """Training loss and held-out bits per byte over tokens seen, with the yardsticks as horizontal lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    header, *rows = [json.loads(line) for line in log.read_text().splitlines()]
    per_byte = 1 / math.log(2) / header["bytes_per_token"]
    held_out = [row for row in rows if "held_out_bits_per_byte" in row]
    figure, axes = pyplot.subplots(figsize=(9, 5.2), dpi=110)
    axes.plot([r["tokens"] / 1e6 for r in rows], [r["loss"] * per_byte for r in rows], label="training loss", lw=1)
    tokens = [r["tokens"] / 1e6 for r in held_out]
    axes.plot(tokens, [r["held_out_bits_per_byte"] for r in held_out], label="held-out files (probe)", lw=2)
    lines = {"xz -9": "xz", "xz -9 after the training text": "xz_after_training_text", "5-gram": "ngram"}
    colours = {"xz -9": "0.45", "xz -9 after the training text": "0.65", "5-gram": "tab:red", "tiny": "tab:green"}
    for label, key in (lines | ({"tiny": "model"} if "model" in scores else {})).items():
        axes.axhline(scores[key], ls="--", lw=1.2, color=colours[label])
        axes.annotate(f"{label}: {scores[key]:.2f}", (axes.get_xlim()[1], scores[key]), ha="right", va="bottom")
    axes.set(xlabel="training tokens, millions", ylabel="bits per byte", ylim=(0.8, 3.0))
    axes.set_title(f"Training of the embedded model tiny ({header['parameters'] / 1e6:.1f} M parameters)")
    axes.secondary_yaxis("right", functions=(lambda y: y / per_byte, lambda y: y * per_byte)).set_ylabel(
        "nats per token"
    )
    axes.grid(alpha=0.25)
    axes.legend(loc="upper right")
    figure.tight_layout()
    figure.savefig(out / "loss.png")


def yardsticks(tokenizer: Tokenizer, train: list[Path], held_out: list[Path]) -> dict[str, float]:
    documents = [encode_files(tokenizer, files) for files in (train, held_out)]
    ngram = ngram_bits_per_byte(*documents, tokenizer.get_vocab_size(), num_bytes_of(held_out))
    return xz_bits_per_byte(b"".join(texts_of(train)), texts_of(held_out)) | {"ngram": ngram}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--yardsticks-only", action="store_true", help="leave the model out")
    parser.add_argument("--keep-yardsticks", action="store_true", help="take them from --out/scores.json")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    scores_file = arguments.out / "scores.json"

    train, held_out = split(Path(sysconfig.get_paths()["stdlib"]))
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    if arguments.keep_yardsticks:
        known = json.loads(scores_file.read_text())["bits_per_byte"]
        scores = {key: value for key, value in known.items() if key != "model"}
    else:
        scores = yardsticks(tokenizer, train, held_out)
    if not arguments.yardsticks_only:
        model = LlamaForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
        documents = encode_files(tokenizer, held_out)
        scores["model"] = sum(file_bits(model, document) for document in documents) / num_bytes_of(held_out)
        shown = complete(model, tokenizer, held_out, 5)
        (arguments.out / "completions.json").write_text(json.dumps(shown, indent=1) + "\n")
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "train_files": len(train),
        "train_bytes": num_bytes_of(train),
        "held_out_files": len(held_out),
        "held_out_bytes": num_bytes_of(held_out),
        "bits_per_byte": {key: round(value, 4) for key, value in scores.items()},
    }
    scores_file.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    draw(arguments.log, scores, arguments.out)


if __name__ == "__main__":
    main()
