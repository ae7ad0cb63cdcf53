"""Binary interface of the kernels: the structs of operation.h as ctypes, in the same order, and its operation codes."""

from __future__ import annotations

import ctypes

from torch import Tensor

CONVOLVE, ACTIVATE, MOMENTS, WEIGHT_GRADIENT, BIAS_GRADIENT, ACTIVATION_SUMS, ACTIVATION_GRADIENT, PLANES = range(8)
ENTER, LEAVE, PRODUCT, PRODUCT_GRADIENT = range(8, 12)
STATISTICS, NORM_GRADIENT, SUM_BLOCKS, GATHER, EVALUATION = range(100, 105)


def _fields(numbers: str = "", pointers: str = "") -> list[tuple[str, type]]:
    """Return struct fields from names separated by spaces: the pointers first, then the 64-bit integers."""
    return [(name, ctypes.c_void_p) for name in pointers.split()] + [(n, ctypes.c_int64) for n in numbers.split()]


class TensorStruct(ctypes.Structure):
    """`struct Tensor`: the layout of an activation or gradient in memory."""

    _fields_ = _fields("block_size slotted height width rows columns origin row_step step", "data")


class WindowStruct(ctypes.Structure):
    """`struct Windows`: the windows of a pooling along rows or columns."""

    _fields_ = _fields("size window stride padding counted_padding bins disjoint")


class NormStruct(ctypes.Structure):
    """`struct Norm`: the per-channel vectors of a batch normalisation."""

    _fields_ = [
        *_fields(
            pointers="alpha beta mean inverse_std mean_gradient mean_product weight bias running_mean running_var "
            "weight_gradient bias_gradient partial"
        ),
        ("epsilon", ctypes.c_double),
        ("momentum", ctypes.c_double),
    ]


class Op(ctypes.Structure):
    """`struct Op`: one operation of a program, with its operands."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        *((name, TensorStruct) for name in ("input", "output", "gradient", "residual", "residual_gradient")),
        *_fields(pointers="rows offsets segments weight bias result order"),
        *_fields("count row_stride stride shift input_blocks adds adds_residual has_residual multiplies"),
        *_fields("activation average full"),
        ("pool_rows", WindowStruct),
        ("pool_columns", WindowStruct),
        *_fields("abreast", "batch"),
        ("slope", ctypes.c_double),
        ("norm", NormStruct),
    ]


def pointer(tensor: Tensor | None) -> int | None:
    """Return the address of the tensor's data; the caller keeps the tensor alive while kernels may access it."""
    return None if tensor is None else tensor.data_ptr()
