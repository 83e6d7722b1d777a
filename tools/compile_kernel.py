"""Compile the Triton kernel for NVIDIA GPUs, on any Linux machine, and show what it needs.

    python tools/compile_kernel.py                # every dtype, width and kind of block
    python tools/compile_kernel.py --quick        # a few of them, as the tests do

Ends with an error where a kernel does not compile or needs more shared memory than the GPU has.
It shows that kernels are accepted, not that they are right or fast: that takes a GPU.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fmicl_core import DIVERGENCES, FMICL, Laplace, get_divergence
from fmicl_torch import kernel, triton_kernel

POINTERS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
#: Compute capability and KiB of shared memory a program may use: A100, RTX 4090, H100 and H200.
GPUS = {80: 163, 89: 99, 90: 227}
#: How a block is summed: half of a symmetric one, a full one, rows alone without atomics, the loss.
KINDS = {
    "triangle": {"TRIANGLE": True, "GRAD": True, "ATOMIC": True, "COLUMNS": True},
    "full": {"TRIANGLE": False, "GRAD": True, "ATOMIC": True, "COLUMNS": True},
    "rows": {"TRIANGLE": False, "GRAD": True, "ATOMIC": False, "COLUMNS": False},
    "loss": {"TRIANGLE": True, "GRAD": False, "ATOMIC": False, "COLUMNS": False},
}


def compiled(objective, dtype, d, kind, gpu):
    """The compiled kernel and its tiles."""
    tiles = kernel.tiles_for(d, dtype, 1024 * GPUS[gpu], KINDS[kind]["COLUMNS"])
    chunks = -(-d // tiles.width)
    fixed = kernel.constants(objective, dtype, chunks, tiles) | KINDS[kind]
    fixed |= {"SKIPS": True, "BIAS": bool(objective.coefficients()[1])}
    names = triton_kernel.block_sums.arg_names
    types = dict.fromkeys(names, "*fp32") | dict.fromkeys(fixed, "constexpr")
    types |= dict.fromkeys(("left", "right"), POINTERS[dtype])
    types |= dict.fromkeys(("n", "k", "span"), "i32") | dict.fromkeys("ac", "fp32")
    aligned = [name for name in names if types[name].startswith("*")]
    source = ASTSource(
        triton_kernel.block_sums, types, {(names.index(n),): v for n, v in fixed.items()},
        {(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )  # fmt: skip
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
    target = GPUTarget("cuda", gpu, 32)
    return triton.compile(source, target=target, options=options), tiles


def registers(binary):
    """Registers a thread, and bytes it spills, by the disassembler that comes with Triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        text = subprocess.check_output([tool, "-res-usage", path], text=True)
    return map(int, re.search(r"REG:(\d+) STACK:(\d+)", text).groups())


def show(name, objective, precision, d, kind, gpu):
    """Compile one kernel, print its needs, and return whether the GPU can hold it."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    dtype = getattr(torch, "float32" if precision == "tf32" else precision)
    made, tiles = compiled(objective, dtype, d, kind, gpu)
    count, spilled = registers(made.asm["cubin"])
    memory = made.metadata.shared / 1024
    tensor_cores = bool(re.search(r"wgmma|mma\.sync", made.asm["ptx"]))
    fits = memory <= GPUS[gpu]
    print(
        f"sm_{gpu} {name:24} {precision:8} D={d:<5} {kind:8} tiles {tiles.rows}x{tiles.columns}"
        f"x{tiles.width}: {count} registers, {spilled} bytes spilled, {memory:.0f} KiB shared,"
        f" {'tensor cores' if tensor_cores else 'no tensor cores'}{'' if fits else ' TOO LARGE'}",
        flush=True,
    )
    return fits


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 leaves nothing to compile")
    js = FMICL("js")
    objectives = {name: FMICL(name) for name in DIVERGENCES if get_divergence(name).suitable}
    objectives |= {"laplace": FMICL("vlc", Laplace()), "raw": FMICL("js", normalize=False)}
    if quick:
        jobs = [("js", js, "bfloat16", 128, "triangle", 90),
                ("js", js, "bfloat16", 128, "rows", 80),
                ("raw", objectives["raw"], "float32", 100, "full", 90),
                ("laplace", objectives["laplace"], "tf32", 64, "full", 89)]  # fmt: skip
    else:
        jobs = [("js", js, precision, d, kind, gpu)
                for gpu in GPUS for precision in ("bfloat16", "float16", "tf32", "float32")
                for d in (5, 64, 100, 128, 256, 512, 1024) for kind in KINDS]  # fmt: skip
        jobs += [(name, objective, "bfloat16", 128, "full", 90)
                 for name, objective in objectives.items()]  # fmt: skip
    fits = [show(*job) for job in jobs]
    print(f"{sum(fits)} of {len(fits)} kernels fit")
    sys.exit(0 if all(fits) else 1)


if __name__ == "__main__":
    main()
