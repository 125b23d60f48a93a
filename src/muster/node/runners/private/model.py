"""The model whose layers this machine runs in private sessions. Loaded once; each CompNode gets a stage of its own."""

from dataclasses import dataclass

import torch
from blake3 import blake3

from muster.model.bodies import build_bodies
from muster.model.conformance import check_conformance
from muster.model.shape import torch_dtype
from muster.model.stage import Stage
from muster.model.weights import Weights
from muster.private.network import PrivateNetwork, private_network


@dataclass(frozen=True, slots=True)
class PrivateModel:
    weights: Weights
    network: PrivateNetwork

    @property
    def digest(self) -> bytes:
        """Of config.json."""
        return config_digest(self.weights.config_json)

    def stages(self, dtype: str, count: int) -> list[Stage]:
        """One for each CompNode, as their passes wait for each other; they share one copy of the weights."""
        layers = len(self.network.layers)
        return build_bodies(self.weights, layers, count, torch_dtype(dtype), torch.device("cpu"))


def config_digest(config_json: str) -> bytes:
    return blake3(config_json.encode()).digest()


def private_model(weights: Weights) -> PrivateModel:
    """Raises `UnsupportedModel` where the architecture does not conform."""
    check_conformance(weights.config_json)
    return PrivateModel(weights, private_network(weights.config_json))
