"""What the machine code of a compiled routine does in one turn of its main loop.

It reads the text that NVIDIA's disassembler writes of a cubin: instructions, and labels between
them. The main loop is the outermost one that holds products. Where the width is cut into chunks, a
loop within it makes the first product; its trips follow from the flops of that product.
"""

import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

INSTRUCTION = re.compile(
    r"/\*[0-9a-f]{4,}\*/\s+(?:@!?(U?P\w+)\s+)?([A-Z][A-Z0-9_]*)([\w.]*)\s*(.*?);"
)
LABEL = re.compile(r"^(\.L_x_\d+):")
#: Registers, KiB of shared memory and threads of a processor of the H100, and KiB that a program
#: takes beside its own.
REGISTERS, SHARED_KIB, THREADS, RESERVED_KIB = 65536, 228, 2048, 1
#: Shared memory and threads of other processors, by compute capability.
OTHERS = {80: (164, 2048), 89: (100, 1536)}
#: Instructions that are skipped in most turns are at least so many; a few are those of a mask.
EDGE = 20
#: Opcodes by what they are counted as; all others are "alu".
CLASSES = {
    "products": {"HGMMA", "HMMA", "QGMMA"},
    "mufu": {"MUFU"},
    "fp32": {"FFMA", "FADD", "FMUL"},
    "convert": {"F2F", "F2FP", "F2I", "I2F", "I2FP", "F2IP"},
    "shared": {"LDS", "STS", "LDSM", "STSM"},
    "loads": {"LDGSTS", "UTMALDG", "LDG"},
    "atomics": {"RED", "REDG", "ATOM", "ATOMG"},
    "shuffles": {"SHFL"},
    "waits": {"BAR", "WARPGROUP", "DEPBAR", "LDGDEPBAR", "MEMBAR", "SYNCS", "WARPSYNC", "FENCE"},
    "spills": {"LDL", "STL"},
}
CLASS_OF = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes}
#: Instructions of these classes are part of every turn, so that no edge holds one.
EVERY_TURN = {"products", "loads", "atomics", "waits"}


class Instruction(NamedTuple):
    """An instruction: its name, what is behind its first dot, operands, and whether it depends."""

    opcode: str
    suffix: str
    operands: str
    conditional: bool

    @property
    def kind(self) -> str:
        """The class of `CLASSES` it is counted as."""
        return CLASS_OF.get(self.opcode, "alu")

    def flops(self) -> int:
        """Flops for a warp; where four warps share a product, a quarter of them."""
        if self.opcode == "FFMA":
            return 64
        shape = re.search(r"(\d+)x(\d+)x(\d+)", self.suffix)
        if shape:
            m, n, k = map(int, shape.groups())
            return 2 * m * n * k // 4
        shape = re.search(r"\.(16)(8)(\d+)", self.suffix)
        if not shape:
            raise ValueError(f"{self.opcode}{self.suffix} has no shape that is known")
        m, n, k = map(int, shape.groups())
        return 2 * m * n * k


class Tile(NamedTuple):
    """What a turn is to compute.

    Args:
        rows, columns: pairs of a tile.
        width: columns of the features in the second product.
        chunks: number of such pieces, all of which the first product takes.
        warps: warps of a program.
        gradients: number of second products, 0 to 2.
        whole: whether a program makes one tile, so that all of its code is the turn.
    """

    rows: int
    columns: int
    width: int
    chunks: int
    warps: int
    gradients: int
    whole: bool = False

    @property
    def first(self) -> int:
        """Flops of the first product."""
        return 2 * self.rows * self.columns * self.width * self.chunks

    @property
    def second(self) -> int:
        """Flops of the other products."""
        return 2 * self.rows * self.columns * self.width * self.gradients


class Turn(NamedTuple):
    """Instructions of a warp in one turn.

    Args:
        counts: number of instructions by class, and all of them as "all".
        details: number by opcode with suffix.
        flops: flops of the products of all warps.
        edge: number of instructions that were left out because only tiles at an edge run them.
    """

    counts: dict[str, float]
    details: dict[str, float]
    flops: float
    edge: int

    def opcode(self, name: str) -> float:
        """Number of instructions whose opcode, with suffix, begins so."""
        return sum(n for key, n in self.details.items() if f"{key}.".startswith(f"{name}."))

    def per_pair(self, name: str, tile: Tile) -> float:
        """Instructions of a class by lanes, for one pair."""
        return self.counts.get(name, 0.0) * 32 * tile.warps / (tile.rows * tile.columns)


def disassembled(cubin: bytes, folder: Path) -> str:
    """Text of the machine code.

    Args:
        cubin: compiled code.
        folder: folder of NVIDIA's tools, as Triton brings them.

    Raises:
        FileNotFoundError: there is no disassembler.
    """
    return _run(folder / "nvdisasm", "-c", cubin)


def resources(cubin: bytes, folder: Path) -> tuple[int, int]:
    """Registers of a thread, and bytes that it spills; raises as `disassembled` does."""
    text = _run(folder / "cuobjdump", "-res-usage", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise ValueError(f"cuobjdump says nothing of registers: {text!r}")
    return int(found[1]), int(found[2])


def _run(tool: Path, option: str, cubin: bytes) -> str:
    if not tool.is_file():
        raise FileNotFoundError(f"{tool.name} is not in {tool.parent}; Triton for NVIDIA has it")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "routine.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([tool, option, path], capture_output=True, text=True, check=True)
    return done.stdout


def programs_per_sm(registers: int, shared_kib: float, warps: int, gpu: int = 90) -> int:
    """Number of programs that a processor holds at a time."""
    memory, threads = OTHERS.get(gpu, (SHARED_KIB, THREADS))
    of_warp = -(-registers // 8) * 8 * 32  # registers are given out to warps, 256 at a time
    by_registers = REGISTERS // (of_warp * warps)
    by_memory = int(memory / (shared_kib + RESERVED_KIB))
    return min(by_registers, by_memory, threads // (32 * warps))


def main_loop(text: str, tile: Tile) -> Turn:
    """What one turn of the main loop does.

    Args:
        text: machine code as `disassembled` returns it.
        tile: what a turn is to compute.

    Raises:
        ValueError: no loop holds products.
    """
    code, labels = _parsed(text)
    opcodes = {instruction.opcode for instruction in code}
    product = next((o for o in ("HGMMA", "QGMMA", "HMMA", "FFMA") if o in opcodes), "FFMA")
    jumps = {i: labels[label[1]] for i, instruction in enumerate(code)
             if instruction.opcode == "BRA"
             and (label := re.search(r"\((\.L_x_\d+)\)", instruction.operands))}  # fmt: skip
    loops = sorted({(to, i + 1) for i, to in jumps.items() if to <= i}, key=lambda x: x[0] - x[1])
    flops = [i.flops() * tile.warps if i.opcode == product else 0 for i in code]
    held = [(start, end) for start, end in loops if sum(flops[start:end])]
    if not held and not tile.whole:
        raise ValueError("no loop of the machine code holds products")
    # Of code without tensor cores other loops have such instructions, too.
    start, end = (
        (0, len(code))
        if tile.whole
        else max(held, key=lambda loop: (sum(flops[slice(*loop)]), loop[1] - loop[0]))
    )
    inner = [loop for loop in held if start <= loop[0] and loop[1] <= end and loop != (start, end)]
    times = [1.0] * len(code)
    if inner:
        first = min(inner, key=lambda loop: loop[0])
        trips = tile.first / sum(flops[slice(*first)])
        times[slice(*first)] = [trips] * (first[1] - first[0])
    edge = _edge(code, jumps, start, end)
    own = [i for i in range(start, end) if i not in edge]
    whole = sum(flops[i] * times[i] for i in own)
    turns = max(1, round(whole / (tile.first + tile.second)))  # a loop may be unrolled
    counts: Counter[str] = Counter()
    details: Counter[str] = Counter()
    for i in own:
        counts[code[i].kind] += times[i] / turns
        counts["all"] += times[i] / turns
        details[code[i].opcode + code[i].suffix] += times[i] / turns
    return Turn(dict(counts), dict(details), whole / turns, len(edge))


def _parsed(text: str) -> tuple[list[Instruction], dict[str, int]]:
    """Instructions, and the number of the one behind every label."""
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := INSTRUCTION.search(line):
            predicate, opcode, suffix, operands = found.groups()
            conditional = predicate is not None or bool(re.match(r"!?U?P\d", operands))
            code.append(Instruction(opcode, suffix, operands, conditional))
    return code, labels


def _edge(code: list[Instruction], jumps: dict[int, int], start: int, end: int) -> set[int]:
    """Instructions of a loop that only tiles at an edge run: jumped over, and nothing but masks."""
    edge: set[int] = set()
    for i, to in jumps.items():
        if start <= i < to <= end and code[i].conditional and to - i > EDGE:
            skipped = range(i + 1, to)
            if not EVERY_TURN & {code[j].kind for j in skipped}:
                edge |= set(skipped)
    return edge
