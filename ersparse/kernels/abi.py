"""The structs of kernels.cpp, in its order, and the numbers of its operations."""

from __future__ import annotations

import ctypes

from torch import Tensor

CONVOLVE, ACTIVATE, MOMENTS, WEIGHT_GRADIENT, BIAS_GRADIENT, ACTIVATION_SUMS, ACTIVATION_GRADIENT, PLANES = range(8)
STATISTICS, NORM_GRADIENT, SUM_BLOCKS, GATHER, EVALUATION = range(100, 105)


def _fields(numbers: str = "", pointers: str = "") -> list[tuple[str, type]]:
    return [(name, ctypes.c_void_p) for name in pointers.split()] + [(n, ctypes.c_int64) for n in numbers.split()]


class TensorStruct(ctypes.Structure):
    _fields_ = _fields("block_size slotted height width rows columns origin step", "data")


class NormStruct(ctypes.Structure):
    _fields_ = [
        *_fields(
            pointers="alpha beta mean inverse_std mean_gradient mean_product weight bias running_mean running_var "
            "weight_gradient bias_gradient partial"
        ),
        ("epsilon", ctypes.c_double),
        ("momentum", ctypes.c_double),
    ]


class Op(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        *((name, TensorStruct) for name in ("input", "output", "gradient", "residual", "residual_gradient")),
        *_fields(pointers="rows offsets weight bias result order"),
        *_fields("count stride shift adds adds_residual has_residual relu average pool_height pool_width full"),
        ("norm", NormStruct),
    ]


def pointer(tensor: Tensor | None) -> int | None:
    """Where its numbers lie.

    The caller keeps the tensor alive as long as the kernels may read it.
    """
    return None if tensor is None else tensor.data_ptr()
