"""Small networks of all shapes: residual, branching with shared weights, long skips, two sequences, a decoder."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class Bottleneck(nn.Module):
    def __init__(self, width: int, inside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, inside, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
            nn.Conv2d(inside, inside, 3, stride, 1, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
            nn.Conv2d(inside, 4 * inside, 1, bias=False), nn.BatchNorm2d(4 * inside),
        )  # fmt: skip
        same = stride == 1 and width == 4 * inside
        change = [nn.Conv2d(width, 4 * inside, 1, stride), nn.BatchNorm2d(4 * inside)]
        self.around = nn.Sequential(*([] if same else change))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.around(x))


class ResNet(nn.Module):
    """He et al., arXiv 1512.03385, for images of CIFAR's size; blocks (3, 4, 23, 3) and width 64 are ResNet-101."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 23, 3), width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        layers, come = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Bottleneck(come, width * 2**stage, 2 if stage and not block else 1))
                come = 4 * width * 2**stage
        self.blocks = nn.Sequential(*layers)
        self.out = nn.Linear(come, classes)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(self.out(self.blocks(self.stem(images)).mean((2, 3))), labels)


class TwoBranches(nn.Module):
    """The same layer in both branches, far from each other."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.left, self.right, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, a: Tensor, b: Tensor, goal: Tensor) -> Tensor:
        x = torch.tanh(self.left(torch.tanh(self.shared(a))))
        y = torch.sigmoid(self.right(torch.relu(self.shared(b))))
        return functional.mse_loss(self.out(x * y + self.shared(x)), goal)


class UNet(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.middle = nn.Conv2d(2 * width, 2 * width, 3, 2, 1)
        self.up1, self.up2 = nn.Conv2d(4 * width, width, 3, padding=1), nn.Conv2d(2 * width, 1, 3, padding=1)
        self.norm = nn.GroupNorm(2, 2 * width)

    def forward(self, image: Tensor, goal: Tensor) -> Tensor:
        one = functional.silu(self.down1(image))
        two = functional.silu(self.norm(self.down2(one)))
        low = functional.interpolate(functional.gelu(self.middle(two)), scale_factor=2)
        low = functional.interpolate(functional.silu(self.up1(torch.cat([low, two], 1))), scale_factor=2)
        return functional.mse_loss(self.up2(torch.cat([low, one], 1)), goal)


class EncoderDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(32, 16)
        self.body = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)

    def forward(self, source: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        states = self.body(self.words(source), self.words(target))
        return functional.cross_entropy((states @ self.words.weight.T).flatten(0, 1), labels.flatten())


class LanguageModel(nn.Module):
    """GPT-2 of `transformers`, with its loss; input and output embeddings are one."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        chosen = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64, "n_positions": 32} | sizes
        chosen |= {"bos_token_id": 0, "eos_token_id": 0}
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        self.body = GPT2LMHeadModel(GPT2Config(**chosen, **off, use_cache=False))

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        logits = self.body(tokens).logits
        return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], dict[str, Tensor]]


def _words(generator: torch.Generator, *shape: int, most: int = 32) -> Tensor:
    return torch.randint(0, most, shape, generator=generator)


def _numbers(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


CASES: dict[str, Case] = {
    "residual": Case(
        lambda: ResNet((1, 1), 4),
        lambda g: {"images": _numbers(g, 4, 3, 8, 8), "labels": _words(g, 4, most=10)},
    ),
    "language model": Case(
        LanguageModel, lambda g: {"tokens": _words(g, 2, 12, most=64), "labels": _words(g, 2, 12, most=64)}
    ),
    "two branches": Case(
        TwoBranches, lambda g: {"a": _numbers(g, 3, 16), "b": _numbers(g, 3, 16), "goal": _numbers(g, 3, 16)}
    ),
    "long skips": Case(UNet, lambda g: {"image": _numbers(g, 2, 1, 16, 16), "goal": _numbers(g, 2, 1, 16, 16)}),
    "encoder and decoder": Case(
        EncoderDecoder,
        lambda g: {"source": _words(g, 2, 7), "target": _words(g, 2, 5), "labels": _words(g, 2, 5)},
    ),
}


def made(name: str, seed: int = 0) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """The network in training, and batches that come from one generator."""
    torch.manual_seed(seed)
    module, generator = CASES[name].make().train(), torch.Generator().manual_seed(seed)
    return module, lambda: CASES[name].batch(generator)
