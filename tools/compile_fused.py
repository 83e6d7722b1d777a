"""Compile the Triton and Pallas routines for NVIDIA GPUs, on any Linux machine; show their needs.

    python tools/compile_fused.py                # every dtype, width and kind of block
    python tools/compile_fused.py --quick        # a few of them, as the tests do
    python tools/compile_fused.py --csv benchmarks/results/gpu_compiled.csv --markdown
        # the headline cases: what a turn of the main loop does, by `machine_code`

Ends with an error where a routine does not compile or needs more shared memory than the GPU has.
It shows that routines are accepted, not that they are right or fast: that takes a GPU. The Triton
code that Pallas writes is compiled by the Triton that is installed, which on a GPU is XLA's own.
"""

import argparse
import csv
import hashlib
import os
import re
import sys
import tempfile
from pathlib import Path

import jax
import machine_code
import torch
import triton
from jax._src.pallas.triton.lowering import _new_ir_context
from jaxlib.mlir import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fmicl_core import DIVERGENCES, FMICL, Laplace, get_divergence
from fmicl_core.fused import tiles_for, weight_tiles, writes_weights
from fmicl_jax.fused_pallas import block_sums
from fmicl_jax.fused_weights import weighed_sums
from fmicl_jax.plan import Fused, Plan
from fmicl_torch import fused, fused_triton

POINTERS = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32", "tf32": "*fp32"}
#: Compute capability and KiB of shared memory a program may use: A100, RTX 4090, H100 and H200.
GPUS = {80: 163, 89: 99, 90: 227}
#: How a block is summed: half of a symmetric one, a full one, rows alone without atomics, the loss.
KINDS = {
    "triangle": {"TRIANGLE": True, "GRAD": True, "ATOMIC": True, "COLUMNS": True},
    "full": {"TRIANGLE": False, "GRAD": True, "ATOMIC": True, "COLUMNS": True},
    "rows": {"TRIANGLE": False, "GRAD": True, "ATOMIC": False, "COLUMNS": False},
    "loss": {"TRIANGLE": True, "GRAD": False, "ATOMIC": False, "COLUMNS": False},
}
#: Where features are wide, the weights alone, for products outside of the routine.
KINDS["weights"] = {"TRIANGLE": False, "GRAD": True}
#: Those that Pallas's routine has.
PALLAS_KINDS = ("rows", "loss", "weights")
#: Which pairs count by the numbers of their rows.
PAIRS = ("all", "different", "equal")
#: The headline cases.
HEADLINE_WIDTHS = (128, 512, 1024)
HEADLINE_DIVERGENCES = ("js", "kl")
#: NVIDIA's tools, which come with Triton.
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ROOT = Path(__file__).resolve().parents[1]
INTEGERS = ("n", "k", "span", "first_row", "first_column", "stride")
#: Numbers that are multiples of a tile's size.
TILE_PLACES = ("first_row", "first_column", "stride")
NUMBERS = ("left_numbers", "right_numbers", "left_ranges", "right_ranges")


def compiled(objective, precision, d, kind, gpu, pairs):
    """The Triton routine of fmicl_torch, compiled, and its tiles."""
    tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    name, memory = "float32" if tf32 else precision, 1024 * GPUS[gpu]
    if kind == "weights":
        routine, tiles = fused_triton.block_weights, weight_tiles(memory)
    else:
        routine = fused_triton.block_sums
        tiles = tiles_for(d, name, tf32, memory, KINDS[kind]["COLUMNS"])
    chunks = -(-d // tiles.width)
    fixed = fused.constants(objective.pairwise, pairs, getattr(torch, name), chunks, tiles)
    learned = "none" if objective.logits is None else "constant"
    bias = "rows" if objective.coefficients()[1] else learned
    fixed |= KINDS[kind] | {"SKIPS": True, "BIAS": bias}
    names = routine.arg_names
    missing = () if pairs == "equal" else ("visited", *(NUMBERS if pairs == "all" else ()))
    fixed |= {name: None for name in missing if name in names}
    types = dict.fromkeys(names, "*fp32") | dict.fromkeys((*NUMBERS, "visited"), "*i32")
    types |= dict.fromkeys(("left", "right", "weights"), POINTERS[precision])
    types |= dict.fromkeys(INTEGERS, "i32") | dict.fromkeys("ac", "fp32")
    types = {name: types[name] for name in names} | dict.fromkeys(fixed, "constexpr")
    aligned = [name for name in names if types[name].startswith("*") or name in TILE_PLACES]
    source = ASTSource(
        routine, types, {(names.index(n),): v for n, v in fixed.items()},
        {(names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )  # fmt: skip
    options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "maxnreg": tiles.registers}
    return triton.compile(source, target=GPUTarget("cuda", gpu, 32), options=options), tiles


def compiled_pallas(objective, precision, d, kind, gpu, pairs):
    """The Pallas routine of fmicl_jax, compiled, and its tiles."""
    tf32, memory = precision == "tf32", 1024 * GPUS[gpu]
    name = "float32" if tf32 else precision
    plan = Plan(objective.pairwise, True, 0, Fused(name, tf32, 132, memory, False))
    rows, number, weight = (
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((4096, d), "float32"), ((4096,), "int32"), ((4096,), "float32"))
    )
    given = rows, rows, (None if pairs == "all" else number,) * 2
    given += (weight if pairs == "equal" else None,)
    outside = kind == "weights"

    def sums(x, y, numbers, weights=None):
        if outside:
            return weighed_sums(x, y, plan, True, False, numbers)
        return block_sums(x, y, plan, kind == "rows", kind == "loss", numbers, weights)

    module = jax.jit(sums).trace(*given).lower(lowering_platforms=("cuda",)).compiler_ir()
    (call,) = operations(module.operation, "custom_call")
    settings = ir.DictAttr(call.attributes["mhlo.backend_config"])
    with _new_ir_context(), tempfile.TemporaryDirectory() as folder:
        written = ir.Module.parse(ir.StringAttr(settings["ir"]).value_bytes)
        path = Path(folder) / "fused.ttir"
        path.write_text(str(written))
        names = "num_warps", "num_stages"
        options = {name: ir.IntegerAttr(settings[name]).value for name in names}
        made = triton.compile(str(path), target=GPUTarget("cuda", gpu, 32), options=options)
    return made, weight_tiles(memory) if outside else tiles_for(d, name, tf32, memory, atomic=False)


def operations(operation, name):
    """The operations whose names end so, within another, at any depth."""
    for region in operation.regions:
        for block in region:
            for inner in block:
                if inner.operation.name.endswith(name):
                    yield inner
                yield from operations(inner.operation, name)


def show(library, name, objective, precision, d, kind, gpu, pairs="all"):
    """Compile one routine and print its needs; whether the GPU can hold it, and the routine."""
    compile_it = {"torch": compiled, "jax": compiled_pallas}[library]
    made, tiles = compile_it(objective, precision, d, kind, gpu, pairs)
    count, spilled = machine_code.resources(made.asm["cubin"], TOOLS)
    memory = made.metadata.shared / 1024
    tensor_cores = bool(re.search(r"wgmma|mma\.sync", made.asm["ptx"]))
    fits = memory <= GPUS[gpu]
    print(
        f"{library:5} sm_{gpu} {name:17} {precision:8} D={d:<5} {kind:8} {pairs:9} tiles"
        f" {tiles.rows}x{tiles.columns}x{tiles.width}: {count} registers, {spilled} bytes spilled,"
        f" {memory:.0f} KiB shared, {'tensor cores' if tensor_cores else 'no tensor cores'}"
        f"{'' if fits else ' TOO LARGE'}",
        flush=True,
    )
    return fits, made, tiles


def measured(library, name, objective, precision, d, kind, gpu):
    """Compile one routine; whether it fits, and what its machine code does, as a row of a table."""
    fits, made, tiles = show(library, name, objective, precision, d, kind, gpu)
    cubin = made.asm["cubin"]
    registers, spilled = machine_code.resources(cubin, TOOLS)
    shared, chunks = made.metadata.shared / 1024, -(-d // tiles.width)
    whole = kind == "weights"
    gradients = 0 if whole else KINDS[kind]["GRAD"] + KINDS[kind]["COLUMNS"]
    tile = machine_code.Tile(
        tiles.rows, tiles.columns, tiles.width, chunks, tiles.warps, gradients, whole
    )
    turn = machine_code.main_loop(machine_code.disassembled(cubin, TOOLS), tile)

    def per_pair(kind):
        return round(turn.per_pair(kind, tile), 2)

    loads = {"LDGSTS": "cp.async", "UTMALDG": "TMA", "LDG": "LDG"}
    atomics = [key for key in turn.details if key.startswith(("RED", "ATOM"))]
    width = max((int(w[1]) for key in atomics if (w := re.search(r"x([24])\b", key))), default=1)
    return fits, {
        "library": library, "gpu": f"sm_{gpu}", "divergence": name, "dtype": precision, "d": d,
        "kind": kind, "rows": tiles.rows, "columns": tiles.columns, "width": tiles.width,
        "chunks": chunks, "warps": tiles.warps, "stages": tiles.stages, "registers": registers,
        "spilled_bytes": spilled, "shared_kib": round(shared, 1),
        "programs_per_sm": machine_code.programs_per_sm(registers, shared, tiles.warps, gpu),
        "hgmma_per_turn": round(turn.opcode("HGMMA")),
        "hgmma_flops_per_pair": round(turn.flops / (tiles.rows * tiles.columns)),
        "hmma_per_turn": round(turn.opcode("HMMA")),
        **{f"{kind}_per_pair": per_pair(kind) for kind in ("mufu", "fp32", "alu", "convert")},
        "shared_access_per_pair": per_pair("shared"),
        "load_instructions": next((v for k, v in loads.items() if turn.opcode(k)), "none"),
        "atomics_per_pair": round(width * turn.per_pair("atomics", tile), 3),
        "atomic_width": width if atomics else 0,
        "instructions_per_pair": per_pair("all"), "shuffles_per_pair": per_pair("shuffles"),
        "product_waits_per_turn": round(turn.opcode("WARPGROUP.DEPBAR")),
        "edge_left_out": turn.edge, "triton": triton.__version__, "code": code_of(library),
    }  # fmt: skip


def code_of(library):
    """A number of the code that is compiled."""
    paths = [ROOT / "fmicl_core" / name for name in ("fused.py", "divergences.py")]
    paths += sorted((ROOT / "backends" / f"fmicl_{library}").glob("fused*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:10]


def is_used(row):
    """Whether the form "fused" takes this routine."""
    outside = writes_weights(row["d"], row["dtype"])
    alone = row["library"] == "jax" and row["kind"] == "loss"  # which JAX computes without weights
    return alone or outside == (row["kind"] == "weights")


def markdown(rows):
    """The table of docs/gpu.md."""
    columns = {
        "library": "library", "divergence": "f", "d": "D", "kind": "block",
        "registers": "registers", "programs_per_sm": "programs an SM", "shared_kib": "KiB",
        "mufu_per_pair": "MUFU", "fp32_per_pair": "fp32", "alu_per_pair": "ALU",
        "shared_access_per_pair": "shared", "atomics_per_pair": "additions",
        "instructions_per_pair": "all",
    }  # fmt: skip
    lines = [[*columns.values()], ["---"] * len(columns)]
    lines += [[str(row[key]) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def headlines(kinds, arguments):
    """Compile the headline cases for the H100 and write what is known of them; the exit code."""
    done = [
        measured(library, name, FMICL(name), "bfloat16", d, kind, 90)
        for library in kinds if arguments.library in (None, library)
        for name in HEADLINE_DIVERGENCES for d in HEADLINE_WIDTHS for kind in kinds[library]
    ]  # fmt: skip
    rows = [row for _, row in done]
    if arguments.csv:
        with arguments.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    if arguments.markdown:
        print(markdown([row for row in rows if is_used(row)]))
    return 0 if all(fits for fits, _ in done) else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--library", choices=["torch", "jax"], help="one of them alone")
    parser.add_argument("--csv", type=Path, help="file for the headline cases, a row a routine")
    parser.add_argument("--markdown", action="store_true", help="the same as a table")
    arguments = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        parser.error("TRITON_INTERPRET=1 leaves nothing to compile")
    kinds = {"torch": KINDS, "jax": PALLAS_KINDS}
    if arguments.csv or arguments.markdown:
        sys.exit(headlines(kinds, arguments))
    js = FMICL("js")
    objectives = {name: FMICL(name) for name in DIVERGENCES if get_divergence(name).suitable}
    objectives |= {"laplace": FMICL("vlc", Laplace()), "raw": FMICL("js", normalize=False)}
    objectives |= {"learned": FMICL("js", logit_scale=10.0, logit_bias=-10.0)}
    if arguments.quick:
        raw, laplace, learned = (objectives[name] for name in ("raw", "laplace", "learned"))
        jobs = [("torch", "js", js, "bfloat16", 128, "triangle", 90),
                ("torch", "js", js, "bfloat16", 128, "rows", 80),
                ("torch", "raw", raw, "float32", 100, "full", 90),
                ("torch", "laplace", laplace, "tf32", 64, "full", 89),
                ("torch", "learned", learned, "bfloat16", 128, "triangle", 90, "different"),
                ("torch", "raw", raw, "float16", 64, "full", 80, "equal"),
                ("torch", "js", js, "bfloat16", 512, "weights", 90),
                ("jax", "raw", raw, "bfloat16", 200, "rows", 90),
                ("jax", "laplace", laplace, "float16", 64, "rows", 80, "equal"),
                ("jax", "laplace", laplace, "tf32", 64, "loss", 80)]  # fmt: skip
    else:
        jobs = [(library, "js", js, precision, d, kind, gpu)
                for library, of_library in kinds.items() for gpu in GPUS for precision in POINTERS
                for d in (5, 64, 100, 128, 256, 512, 1024) for kind in of_library
                if kind != "weights" or (precision == "bfloat16" and d > 128)]  # fmt: skip
        jobs += [(library, name, objective, "bfloat16", 128, kind, 90, pairs)
                 for library, kind in (("torch", "full"), ("jax", "rows"))
                 for name, objective in objectives.items()
                 for pairs in ("all", "equal")]  # fmt: skip
        jobs += [(library, "js", js, precision, d, kind, gpu, pairs)
                 for library, of_library in kinds.items() for gpu in GPUS for precision in POINTERS
                 for d in (128, 512) for kind in of_library for pairs in PAIRS[1:]
                 if kind != "weights"]  # fmt: skip
        jobs += [("torch", name, objective, "bfloat16", 512, "weights", 90, pairs)
                 for name, objective in objectives.items() for pairs in PAIRS[:2]]  # fmt: skip
    fits = [show(*job)[0] for job in jobs if arguments.library in (None, job[0])]
    print(f"{sum(fits)} of {len(fits)} routines fit")
    sys.exit(0 if all(fits) else 1)


if __name__ == "__main__":
    main()
