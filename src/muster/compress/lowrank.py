"""The codec `rank-r`: a matrix as the product of two thin ones (PowerSGD, Vogels et al., arXiv 1905.13727, alg. 1).

    [P, bfloat16: rows x r] [Q, bfloat16: width x r]        matrix ~ P Q^T

One power iteration for each message, from the Q of the message before: P = orthogonal(M Q), Q = M^T P. What is alike
from message to message, as gradients are, is found after a few. It loses whatever is left; made for error feedback.
"""

import torch
from torch import Tensor

from muster.compress.matrix import bytes_of, check_length, checked, header_of, not_a_number, payload_of, size, within
from muster.compress.noise import uniform
from muster.errors import MalformedFrame
from muster.wire.messages.base import TensorHeader


class LowRankCodec:
    """Implements `Encode` and `Decode`. The sender keeps its last Q of each width."""

    def __init__(self, name: str, rank: int, seed: int = 0) -> None:
        self.name, self._rank, self._seed = name, rank, seed
        self._last: dict[int, Tensor] = {}

    def encode(self, tensor: Tensor) -> tuple[TensorHeader, memoryview]:
        header = header_of(tensor, self.name)
        rows, width = size(header.shape)
        rank = min(self._rank, rows, width)
        if not rank:
            return header, memoryview(b"")
        matrix_RH = tensor.detach().reshape(rows, width).float()
        q_HK = self._last.get(width)
        if q_HK is None or q_HK.shape[1] != rank or q_HK.device != matrix_RH.device:
            q_HK = uniform(width * rank, self._seed, 0, matrix_RH.device).view(width, rank) - 0.5
        p_RK = torch.linalg.qr(matrix_RH @ q_HK).Q.to(torch.bfloat16)
        q_HK = matrix_RH.T @ p_RK.float()
        if not bool(q_HK.isfinite().all()):
            raise not_a_number()
        if bool(q_HK.any()):
            self._last[width] = q_HK
        parts = (p_RK.flatten().view(torch.uint8), within(q_HK.clone(), torch.bfloat16).flatten().view(torch.uint8))
        return header, payload_of(torch.cat(parts))

    def decode(self, header: TensorHeader, payload: bytes | bytearray | memoryview, max_bytes: int) -> Tensor:
        dtype, rows, width = checked(header, max_bytes)
        rank = min(self._rank, rows, width)
        check_length(header, len(payload), 2 * rank * (rows + width) if rows * width else 0)
        if not rows * width:
            return torch.empty(header.shape, dtype=dtype)
        thin = bytes_of(payload).clone().view(torch.bfloat16).float()
        if not bool(thin.isfinite().all()):
            raise MalformedFrame("A tensor came with what is no number; the sender is broken, or cheats.")
        p_RK, q_HK = thin[: rows * rank].view(rows, rank), thin[rows * rank :].view(width, rank)
        product = p_RK.double() @ q_HK.double().T
        return within(product.float().nan_to_num(), dtype).view(header.shape)
