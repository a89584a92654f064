"""How exact and how fast are float32 products on a GPU's tensor cores, beside float64 and the ordinary units?

    python bench/split_gemm.py [--rows 2048]

The products of engine.dtype fp32-tc (src/backend/cuda/cuda_linear.c), made of PyTorch's: operands split into two fp16
numbers with a power of two for each row, one product of depth 2 K for the small terms, then the large one in pieces.
For the shapes of LLaMA-3.2-1B: largest error and root mean square, each by that of float64's result, and TFLOP/s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

SHAPES = {"qkv": (2048, 3072), "attn_out": (2048, 2048), "mlp_in": (2048, 16384), "mlp_out": (8192, 2048)}
LOW = 2048.0


def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """High, low and exponent of each row."""
    exponent = torch.frexp(x.abs().amax(1, keepdim=True))[1]
    scaled = torch.ldexp(x, -exponent)
    high = scaled.half()
    return high, ((scaled - high.float()) * LOW).half(), exponent


class Split:
    """x W^T with W [out, in] split once, as weights are."""

    def __init__(self, w: Tensor, piece: int) -> None:
        self.high, low, self.exponent = split(w)
        self.small, self.piece = torch.cat([low, self.high], 1), piece

    def __call__(self, x: Tensor) -> Tensor:
        """The three products of an x that is split first."""
        high, low, exponent = split(x)
        y = torch.mm(torch.cat([high, low], 1), self.small.T, out_dtype=torch.float32) / LOW
        for at in range(0, x.shape[1], self.piece):
            part = slice(at, at + self.piece)
            y += torch.mm(high[:, part], self.high[:, part].T, out_dtype=torch.float32)
        return torch.ldexp(y, exponent + self.exponent.T)


def seconds(work: Callable[[], Tensor]) -> float:
    """The median of seven runs of five."""
    taken = []
    for _ in range(9):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(5):
            work()
        torch.cuda.synchronize()
        taken.append((time.perf_counter() - start) / 5)
    return sorted(taken[2:])[3]


def main() -> None:
    """Each way at each shape, with inputs of one size and with channels that are 60 times larger."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--rows", type=int, default=2048)
    a = p.parse_args()
    torch.manual_seed(0)
    for name, (n_in, n_out) in SHAPES.items():
        for inputs in ("normal", "outliers"):
            x = torch.randn(a.rows, n_in, device="cuda")
            if inputs == "outliers":
                x[:, torch.randperm(n_in, device="cuda")[: n_in // 256]] *= 60
            w = 0.02 * torch.randn(n_out, n_in, device="cuda")
            right = x.double() @ w.double().T
            ways: dict[str, Callable[[Tensor], Tensor]] = {
                "ordinary units": lambda x, w=w: x @ w.T,
                "split, pieces of 1024": Split(w, 1024),
                "split, whole": Split(w, n_in),
            }
            for way, product in ways.items():
                torch.backends.cuda.matmul.allow_tf32 = False
                error = product(x).double() - right
                largest = float(error.abs().max() / right.abs().max())
                rms = float((error.square().mean() / right.square().mean()).sqrt())
                rate = 2e-12 * a.rows * n_in * n_out / seconds(lambda f=product, x=x: f(x))
                print(f"{name:9s} {inputs:9s} {way:22s} largest {largest:.2e}  rms {rms:.2e}  {rate:6.1f} TFLOP/s")


if __name__ == "__main__":
    main()
