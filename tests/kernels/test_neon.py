"""The kernels compiled for ARM processors (NEON) and run by an emulator, against those of this processor."""

import ctypes
import gc
import platform
import shutil
import subprocess

import numpy as np
import pytest
import torch
from conftest import need_kernels
from torch import nn
from torch.nn import functional as F

from ersparse.kernels import abi
from ersparse.kernels.buffers import Precision
from ersparse.kernels.compile import COMMON_FLAGS, SOURCE
from ersparse.kernels.network import SparseNetwork
from ersparse.sparse.mask import attach, enforce

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
RUNNER = r"""
#include <cstring>
#include "kernels.cpp"
#include <cstdio>
#include <vector>

// Reads regions of memory, and lists of operations whose pointers it moves into them; runs these, writes the regions.
static int64_t number(FILE* f) { int64_t n; if (fread(&n, 8, 1, f) != 1) return -1; return n; }
int main(int, char** paths) {
    FILE* in = fopen(paths[1], "rb");
    std::vector<std::vector<char>> regions(number(in));
    for (auto& region : regions) {
        region.resize(number(in));
        if (fread(region.data(), 1, region.size(), in) != region.size()) return 1;
    }
    const int64_t images = number(in), threads = number(in), lists = number(in);
    for (int64_t l = 0; l < lists; l++) {
        std::vector<char> ops(number(in));
        if (fread(ops.data(), 1, ops.size(), in) != ops.size() || ops.size() % size_of_op()) return 2;
        for (int64_t moved = number(in); moved > 0; moved--) {
            const int64_t at = number(in), region = number(in), offset = number(in);
            char* address = regions[region].data() + offset;
            memcpy(ops.data() + at, &address, sizeof address);
        }
        run(reinterpret_cast<Op*>(ops.data()), ops.size() / size_of_op(), images, 1, threads);
    }
    FILE* out = fopen(paths[2], "wb");
    for (auto& region : regions) fwrite(region.data(), 1, region.size(), out);
    return fclose(out);
}
"""


def pointers(struct, base=0):
    """Yield the offset and the value of each pointer of a ctypes struct that is not null."""
    for name, kind in struct._fields_:
        offset, value = base + getattr(type(struct), name).offset, getattr(struct, name)
        if kind is ctypes.c_void_p and value:
            yield offset, value
        elif isinstance(value, ctypes.Structure):
            yield from pointers(value, offset)


def dump(lists, images, threads, path):
    """Write the operations and all memory that they point to; return this memory, as tensors."""
    tensors = [t for t in gc.get_objects() if type(t) in (torch.Tensor, nn.Parameter) and t.device.type == "cpu"]
    memory = {(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()): t for t in tensors}
    used, numbers = {}, []
    for ops in lists:
        moved = []
        for index, op in enumerate(ops):
            for offset, address in pointers(op, index * ctypes.sizeof(op)):
                region = next(r for r in memory if r[0] <= address < r[0] + r[1])
                moved += [offset, used.setdefault(region, len(used)), address - region[0]]
        numbers.append(np.array([len(moved) // 3, *moved], np.int64).tobytes())
    regions = [torch.empty(0, dtype=memory[r].dtype).set_(memory[r].untyped_storage()) for r in used]
    with path.open("wb") as file:
        file.write(np.int64(len(regions)).tobytes())
        for region in regions:
            file.write(np.int64(region.nbytes).tobytes() + region.view(torch.uint8).numpy().tobytes())
        file.write(np.array([images, threads, len(lists)], np.int64).tobytes())
        for ops, moves in zip(lists, numbers, strict=True):
            file.write(np.int64(ctypes.sizeof(ops)).tobytes() + bytes(ops) + moves)
    return regions


def emulated(real, stored, folder):
    """Return the path of the runner, compiled for ARM."""
    (folder / "runner.cpp").write_text(RUNNER, encoding="utf-8")
    flags = [f for f in COMMON_FLAGS if f not in ("-shared", "-fPIC")]
    defines = (f"-DREAL={real}", f"-DSTORED={stored}", f"-I{SOURCE.parent}")
    command = [COMPILER, *flags, "-static", *defines, "-o", "runner", "runner.cpp"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "runner"


class Network(nn.Module):
    """Convolutions before maxima, a residual sum, and a normalisation, an activation and an overlapping average."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 20, 3, padding=1)
        self.third, self.norm = nn.Conv2d(20, 8, 3, stride=2), nn.BatchNorm2d(8)
        self.last = nn.Linear(32, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.silu(self.norm(self.third(F.relu(self.second(x) + x))))
        return self.last(F.avg_pool2d(x, 3, 2, 1).flatten(1))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64" or not shutil.which(COMPILER), reason=f"needs {COMPILER}")
@pytest.mark.skipif(not shutil.which(EMULATOR), reason=f"needs {EMULATOR}")
@pytest.mark.parametrize(
    "real, stored, names, tolerance",
    [("float64", "float64", ("double", "double"), 1e-12), ("float32", "bfloat16", ("float", "bfloat16"), 0.05)],
)
def test_kernels_for_neon_compute_the_same(real, stored, names, tolerance, tmp_path):
    need_kernels(*names)
    torch.manual_seed(0)
    precision = Precision(getattr(torch, real), getattr(torch, stored))
    network = Network().to(precision.compute_dtype)
    attach(network, {name: torch.rand_like(p) < 0.4 for name, p in network.named_parameters() if p.dim() > 1})
    enforce(network)
    sparse = SparseNetwork(network, precision)
    x = torch.randn(35, 3, 16, 16, dtype=precision.compute_dtype)
    sparse(x).sum().backward()
    with torch.no_grad():
        sparse.eval()(x)
    numbers = [torch.randn(35, 3 * 16 * 16, dtype=precision.compute_dtype) for _ in range(2)]
    lists = []
    for _, program in sparse._programs.values():
        for operations in (program._forward, program._backward):
            for op in operations.packed:
                if op.kind in (abi.ENTER, abi.LEAVE):
                    op.batch = numbers[op.kind == abi.LEAVE].data_ptr()
            lists += [operations.packed] if len(operations.packed) else []
    assert len(lists) == 3  # training forward and backward, and evaluation
    regions = dump(lists, len(x), program.workspace.threads, tmp_path / "in")
    runner = emulated(*names, tmp_path)
    subprocess.run([EMULATOR, runner, tmp_path / "in", tmp_path / "out"], check=True)
    for ops in lists:
        program.kernels.run(ctypes.byref(ops), len(ops), len(x), 1, program.workspace.threads)
    found, begin = torch.from_numpy(np.fromfile(tmp_path / "out", np.uint8)), 0
    for region in regions:
        theirs, begin = found[begin : begin + region.nbytes], begin + region.nbytes
        torch.testing.assert_close(theirs.clone().view(region.dtype), region, rtol=tolerance, atol=tolerance)
    assert begin == len(found)
