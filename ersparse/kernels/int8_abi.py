"""Binary interface of 8-bit prediction: the structs of byte_operation.h as ctypes, and its operation codes."""

from __future__ import annotations

import ctypes

from ersparse.kernels.abi import WindowStruct

ENTER, CONVOLVE, ADD, MULTIPLY, LOOK_UP, CHOOSE, MAXIMUM, AVERAGE, LOGITS, LEAVE = range(10)


class ByteTensor(ctypes.Structure):
    """`struct Tensor`: the layout of an activation in memory."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        *((n, ctypes.c_int64) for n in ("block_size", "channel_size", "row_size", "origin", "height", "width")),
    ]


class ByteOp(ctypes.Structure):
    """`struct Op`: one operation of a program, with its operands."""

    _fields_ = [
        ("kind", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        *((name, ByteTensor) for name in ("input", "output", "residual")),
        *((name, ctypes.c_void_p) for name in ("groups", "offsets", "weights", "scale", "bias", "table")),
        *((n, ctypes.c_int64) for n in ("row_stride", "stride", "shift", "has_residual", "halves")),
        *((n, ctypes.c_int64) for n in ("vectors", "border")),
        *((name, ctypes.c_float) for name in ("in_scale", "in_bias", "residual_scale", "residual_bias", "out_zero")),
        ("pool_rows", WindowStruct),
        ("pool_columns", WindowStruct),
        ("batch", ctypes.c_void_p),
    ]
