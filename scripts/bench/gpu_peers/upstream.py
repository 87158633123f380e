"""The published MInference kernels, imported from a checkout of github.com/microsoft/MInference.

Nothing of them is part of this repository. The package itself needs an installed extension and transformers;
its two Triton files and its index kernel are enough here: the index kernel is compiled from the checkout's
source with its PyTorch glue cut off.
"""

import ctypes
import importlib
import pathlib
import subprocess
import sys
import tempfile
import types

import torch

BLOCK = 64

WRAPPER = """
extern "C" int convert(const int* seqlens, const int* vertical, const int* slash, int* block_count,
                       int* block_offset, int* column_count, int* column_index, int batch, int heads,
                       int rows, int nnz_v, int nnz_s) {
  convert_vertical_slash_indexes_64x64(seqlens, vertical, slash, block_count, block_offset, column_count,
                                       column_index, batch, heads, rows, nnz_v, nnz_s);
  return static_cast<int>(cudaGetLastError());
}
"""


def compile_converter(checkout, arch="sm_90"):
    """Builds the index kernel with nvcc and returns the library's path."""
    source = (checkout / "csrc" / "vertical_slash_index.cu").read_text()
    kernels = source[: source.index("std::vector<at::Tensor>")]
    lines = [line for line in kernels.splitlines() if "pybind11" not in line and "torch/" not in line]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="minference_upstream_"))
    (folder / "convert.cu").write_text("\n".join(lines) + WRAPPER)
    library = folder / "convert.so"
    flags = ["-O3", f"-arch={arch}", "-Xcompiler", "-fPIC", "-shared"]
    subprocess.run(["nvcc", *flags, "-o", library, folder / "convert.cu"], check=True)
    return library


def convert_with(library):
    """The function the checkout's Triton file expects of its compiled extension."""
    native = ctypes.CDLL(str(library)).convert

    def convert(seqlens, vertical, slash, context_size, block_m, block_n):
        assert block_m == BLOCK and block_n == BLOCK
        batch, heads, nnz_s = slash.shape
        nnz_v = vertical.shape[2]
        rows = (context_size + BLOCK - 1) // BLOCK

        def zeros(*shape):
            return torch.zeros(shape, dtype=torch.int32, device=slash.device)

        counts_and_lists = [
            zeros(batch, heads, rows),
            zeros(batch, heads, rows, nnz_s),
            zeros(batch, heads, rows),
            zeros(batch, heads, rows, nnz_v),
        ]
        tensors = [seqlens, vertical.contiguous(), slash.contiguous(), *counts_and_lists]
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        status = native(*pointers, batch, heads, rows, nnz_v, nnz_s)
        if status != 0:
            raise RuntimeError(f"index kernel: CUDA error {status}")
        return counts_and_lists

    return convert


def load(checkout):
    """Imports the two Triton files; returns (vertical-slash module, block-sparse module)."""
    checkout = pathlib.Path(checkout)
    for name, path in [("minference", "minference"), ("minference.ops", "minference/ops")]:
        package = types.ModuleType(name)
        package.__path__ = [str(checkout / path)]
        sys.modules[name] = package
    extension = types.ModuleType("minference.cuda")
    extension.convert_vertical_slash_indexes = convert_with(compile_converter(checkout))
    sys.modules["minference.cuda"] = extension
    return (
        importlib.import_module("minference.ops.pit_sparse_flash_attention_v2"),
        importlib.import_module("minference.ops.block_sparse_flash_attention"),
    )
