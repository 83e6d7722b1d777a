"""Which cases there are to check and to time, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from benchmarks.gpu.cases import FORMS, Check, Speed, Task
from fmicl_core import DIVERGENCES, get_divergence
from fmicl_core.pairs import NEGATIVES

DTYPES = ("bfloat16", "float16", "tf32", "float32")
#: Rows of a check; the first leaves edges in every tile, the second in none.
CHECK_ROWS = 700, 768
#: Most rows of the forms that make a matrix of all pairs, and of the products that do, in 16 bits.
DENSE_ROWS, WHOLE_ROWS = 32768, 65536
#: What is done in turn, in the order of what it tells.
STAGES = {
    1: "every family of routines against float64",
    2: "N = 8,192 and 65,536, D = 128, bfloat16: JS, SigLIP, ids, CLIP, baselines",
    3: "shapes of other libraries: D = 1,024, SigLIP at 65,536, a bank",
    4: "N = 1,048,576",
    5: "D = 512",
    6: "other forms, ids, learned scalars and InfoNCE at the sizes of stage 2",
    7: "small N",
    8: "other dtypes at N = 8,192",
    9: "all other checks",
    10: "all other speeds",
}
#: Sizes of a rehearsal on a CPU, where routines are interpreted.
SMALL = {512: 64, 700: 150, 768: 128, 1024: 96, 2048: 96, 4096: 96, 8192: 256, 32768: 320}
SMALL |= {65536: 384, 1 << 20: 512}
SMALL_WIDTHS = {128: 32, 512: 64, 1024: 96}

#: Every family of routines: each dtype with one piece of the width and with several, symmetric and
#: full blocks, with atomics and without, value alone, normalised and raw features; each formula;
#: ids in tiles with few positives and with many; scalars that learn; losses by name.
COVER = {
    "torch": """
        fused               kl                gaussian cross  -    bfloat16 128  unit
        fused               js                gaussian anchor -    bfloat16 128  unit
        fused               siglip            -        cross  -    bfloat16 128  unit learned
        fused               js                gaussian anchor -    bfloat16 128  unit ids
        fused               js                gaussian cross  -    bfloat16 128  unit learned
        fused_deterministic js                gaussian all    -    bfloat16 128  unit
        fused_value         js                gaussian anchor -    bfloat16 128  unit
        fused               js                gaussian anchor bank bfloat16 128  unit
        fused               js                gaussian anchor -    bfloat16 128  unit classes
        tiled               clip              -        cross  -    bfloat16 128  unit learned
        tiled               info_nce          -        all    -    bfloat16 128  unit
        fused               pearson           gaussian all    -    float16  64   unit
        fused               tsallis           cauchy   all    -    tf32     64   unit
        fused               vlc               laplace  all    -    float32  128  unit
        fused               squared_hellinger laplace  within -    bfloat16 100  unit
        fused               jeffreys          gaussian cross  -    bfloat16 200  unit
        fused               kl                cosine   all    -    bfloat16 256  unit
        fused               js                gaussian all    -    bfloat16 64   raw
        fused               js                gaussian all    -    bfloat16 512  unit
        fused_deterministic kl                gaussian all    -    bfloat16 512  unit
        fused               vlc               gaussian all    -    float16  1024 raw
        fused               js                gaussian all    -    tf32     768  unit
        fused               js                gaussian all    -    float32  512  raw
        fused               kl                gaussian cross  bank tf32     128  raw
        fused_deterministic tsallis           gaussian within -    float16  1024 unit
        fused_deterministic vlc               gaussian anchor bank tf32     768  unit
        fused_deterministic squared_hellinger cauchy   cross  -    float32  100  unit
        fused_deterministic js                laplace  all    -    bfloat16 200  raw
        fused_deterministic jeffreys          gaussian within bank float16  64   unit
        fused_value         kl                gaussian cross  -    float32  512  unit
        fused_value         js                gaussian all    -    float16  200  raw
        fused               js                gaussian within -    bfloat16 5    unit
        fused               js                gaussian cross  -    float32  5    unit
        fused               js                gaussian anchor -    bfloat16 1024 unit
        fused               siglip            -        cross  -    bfloat16 1024 unit learned
        fused               siglip            -        cross  -    tf32     128  unit learned ids
        fused_deterministic siglip            -        cross  -    bfloat16 512  unit learned
        fused_deterministic js                gaussian cross  -    bfloat16 128  unit classes
        fused               kl                gaussian all    -    float16  512  unit ids
        fused               js                gaussian cross  bank bfloat16 128  unit ids
        fused               js                gaussian anchor -    float32  128  unit learned ids
        fused_value         siglip            -        cross  -    bfloat16 128  unit
        tiled               js                gaussian all    -    bfloat16 128  unit
        tiled               pearson           cauchy   cross  bank float32  512  unit
        tiled               kl                gaussian within -    tf32     64   raw
        tiled               js                gaussian anchor -    bfloat16 128  unit ids
        tiled               siglip            -        cross  -    float32  128  unit learned
        tiled               info_nce          -        cross  bank bfloat16 128  unit
        dense               kl                cosine   anchor -    float16  128  unit
        dense               siglip            -        cross  -    bfloat16 128  unit learned
        dense               clip              -        cross  -    float32  128  unit learned
        dense               info_nce          -        cross  -    tf32     128  unit learned
    """,
    "jax": """
        fused               kl                gaussian cross  -    bfloat16 128  unit
        fused               js                gaussian anchor -    bfloat16 128  unit
        fused               siglip            -        cross  -    bfloat16 128  unit learned
        fused               js                gaussian anchor -    bfloat16 128  unit ids
        fused               js                gaussian cross  -    bfloat16 128  unit learned
        fused_value         js                gaussian anchor -    bfloat16 128  unit
        fused               js                gaussian anchor -    bfloat16 128  unit classes
        tiled               clip              -        cross  -    bfloat16 128  unit learned
        tiled               info_nce          -        all    -    bfloat16 128  unit
        fused               pearson           gaussian all    -    float16  64   unit
        fused               tsallis           cauchy   all    -    tf32     100  unit
        fused               vlc               laplace  all    -    float32  128  unit
        fused               squared_hellinger gaussian within -    bfloat16 512  unit
        fused               jeffreys          gaussian all    -    bfloat16 1024 unit
        fused               js                gaussian all    -    float16  200  raw
        fused               js                gaussian cross  bank tf32     768  raw
        fused               js                gaussian all    -    float32  512  raw
        fused               js                gaussian anchor bank bfloat16 200  raw
        fused               kl                cosine   cross  -    float32  5    unit
        fused_value         kl                gaussian all    -    tf32     256  unit
        fused               siglip            -        cross  -    bfloat16 1024 unit learned
        fused               js                gaussian cross  bank bfloat16 128  unit ids
        fused               kl                gaussian all    -    float16  512  unit classes
        tiled               js                gaussian all    -    bfloat16 128  unit
        tiled               kl                gaussian cross  bank float32  512  unit
        tiled               siglip            -        cross  -    float32  128  unit learned
        tiled               info_nce          -        cross  bank bfloat16 128  unit
        dense               vlc               laplace  within -    tf32     64   raw
        dense               clip              -        cross  -    float32  128  unit learned
    """,
}
#: Speeds, by stage. Within a line each form comes at all sizes before the next; of those that one
#: library alone has, the other leaves out. A loss may have pairs or scalars of its own: js/ids.
ALL_FORMS = "fused products products_tiles compiled_chunks compiled_dense tiled".replace(" ", ",")
ALL_FORMS += ",fused_deterministic,dense"
SPEEDS = f"""
     2 js           fused                                  8192,65536 128  bfloat16 anchor,cross
     2 siglip       fused                                  8192,65536 128  bfloat16 cross
     2 js/ids       fused                                  8192,65536 128  bfloat16 anchor
     2 any          products                               8192,65536 128  bfloat16 anchor,cross
     2 js           compiled_chunks,compiled_dense         8192,65536 128  bfloat16 anchor,cross
     2 siglip       compiled_chunks,compiled_dense         8192,65536 128  bfloat16 cross
     2 clip         tiled,compiled_chunks,compiled_dense   8192,65536 128  bfloat16 cross
     3 siglip       fused,compiled_dense,eager_dense       512,1024,2048,4096,8192 1024 bfloat16 cross
     3 siglip       fused,compiled_chunks                  65536      512,1024 bfloat16 cross
     3 js           fused,compiled_dense                   512,1024,2048,4096,8192 1024 bfloat16 cross
     3 js           fused,tiled,compiled_dense             512+65536  128  bfloat16 cross
     3 info_nce     tiled,compiled_dense                   512+65536  128  bfloat16 cross
     3 info_nce     tiled,compiled_dense,eager_dense       512,1024,2048,4096,8192 1024 bfloat16 cross
     4 js           fused                                  1048576    128  bfloat16 anchor,cross
     4 siglip       fused                                  1048576    128  bfloat16 cross
     4 any          products_tiles                         1048576    128  bfloat16 anchor,cross
     5 js           {ALL_FORMS}                            8192,65536 512  bfloat16 anchor,cross
     6 info_nce     tiled,compiled_chunks,compiled_dense   8192,65536 128  bfloat16 cross,all
     6 js/ids       tiled,compiled_chunks,compiled_dense   8192,65536 128  bfloat16 anchor
     6 js/classes   fused,tiled,compiled_chunks,compiled_dense 8192,65536 128 bfloat16 anchor
     6 js/learned   fused,tiled,compiled_chunks            8192,65536 128  bfloat16 anchor,cross
     6 js           {ALL_FORMS}                            8192,65536 128  bfloat16 anchor,cross
     6 siglip       tiled,fused_deterministic,dense        8192,65536 128  bfloat16 cross
     6 clip         dense                                  8192       128  bfloat16 cross
     6 js/ids       fused,tiled,compiled_chunks            8192,65536 128  bfloat16 cross
     7 js           {ALL_FORMS}                            512,1024   128  bfloat16,float32 anchor,cross
     7 siglip       fused,compiled_dense,eager_dense       512,1024   128  bfloat16,float32 cross
     8 js           fused,tiled                            8192       128  {",".join(DTYPES)} anchor,cross
     8 any          products                               8192       128  {",".join(DTYPES)} anchor,cross
    10 js           {ALL_FORMS}           512,1024,8192,32768 128  {",".join(DTYPES)} anchor,cross
    10 js           {ALL_FORMS}                            8192       512  {",".join(DTYPES)} anchor,cross
    10 siglip       fused,tiled,compiled_dense             8192       128,512 {",".join(DTYPES)} cross
    10 js           fused                                  1048576    128  float32 anchor,cross
"""  # noqa: E501
#: Forms that one library alone has.
TORCH_ALONE = ("fused_deterministic", "eager_dense")


def covering(library: str) -> list[Check]:
    """The few checks that between them meet every family of routines."""
    checks = []
    for i, line in enumerate(COVER[library].strip().splitlines()):
        form, loss, similarity, negatives, bank, dtype, d, rows, *more = line.split()
        pairs = next((word for word in more if word in ("ids", "classes")), "rows")
        scalars = "learned" if "learned" in more else "fixed"
        n, how = CHECK_ROWS[i % 2], (rows == "unit", pairs, scalars)
        checks.append(
            Check(form, loss, similarity, negatives, bank == "bank", dtype, n, int(d), *how)
        )
    return checks


def all_checks(library: str) -> Iterator[Check]:
    """Each divergence, scheme, form and dtype; raw features; each width of the fused routines."""
    n = CHECK_ROWS[0]
    forms = [form for form in FORMS[library] if form != "fused_value"]
    for form in forms:
        for dtype in DTYPES:
            for loss in suitable():
                for negatives in NEGATIVES:
                    yield Check(form, loss, "gaussian", negatives, False, dtype, n, 64)
            for pairs, negatives in product(("ids", "classes"), NEGATIVES):
                yield Check(form, "js", "gaussian", negatives, False, dtype, n, 64, True, pairs)
            yield Check(form, "siglip", "-", "cross", False, dtype, n, 64, True, "rows", "learned")
            if form.startswith("fused"):
                yield Check(form, "js", "gaussian", "all", False, dtype, n, 64, normalize=False)
                for d in (5, 100, 128, 200, 512, 768, 1024):
                    yield Check(form, "js", "gaussian", "all", False, dtype, n, d)
                    yield Check(form, "siglip", "-", "cross", False, dtype, n, d)


def suitable() -> list[str]:
    """The divergences that keep features apart."""
    return [name for name in DIVERGENCES if get_divergence(name).suitable]


def fits(library: str, case: Speed) -> bool:
    """Whether the library has the form, and the memory for it."""
    if case.form in TORCH_ALONE and library != "torch":
        return False
    rows = case.n * (2 if case.negatives == "all" else 1)
    most = {"products": WHOLE_ROWS, "dense": DENSE_ROWS}.get(case.form.split("_")[-1])
    return most is None or rows * (case.bank or rows) <= most**2


def sizes(library: str) -> Iterator[tuple[int, Speed]]:
    """The stage of each speed, with the speed; one can come twice, and its first stage counts."""
    for line in SPEEDS.strip().splitlines():
        stage, what, *lists = line.split()
        loss, _, more = what.partition("/")
        learned = more == "learned" or loss in ("siglip", "clip")
        pairs = more if more in ("ids", "classes") else "rows"
        for form, size, d, dtype, negatives in product(*(entry.split(",") for entry in lists)):
            n, _, bank = size.partition("+")
            name = "any" if form.startswith("products") else loss
            case = Speed(name, form, int(n), int(d), dtype, negatives, int(bank or 0), pairs)
            case = case._replace(scalars="learned" if learned and name != "any" else "fixed")
            if fits(library, case):
                yield int(stage), case


def plan(library: str, small: bool = False) -> list[Task]:
    """All that there is to do with a library, by `STAGES`, each case once.

    Args:
        library: "torch" or "jax".
        small: whether sizes are such that a CPU can interpret them.
    """
    found: list[tuple[int, Check | Speed]] = [(1, case) for case in covering(library)]
    found += list(sizes(library)) + [(9, case) for case in all_checks(library)]
    tasks: dict[tuple[str, ...], Task] = {}
    for stage, case in sorted(found, key=lambda pair: pair[0]):
        task = Task(stage, library, shrunk(case) if small else case)
        tasks.setdefault(task.key, task)
    return list(tasks.values())


def shrunk(case: Check | Speed) -> Check | Speed:
    """The same case at a size for a CPU."""
    if isinstance(case, Check):
        return case._replace(n=SMALL[case.n], d=min(case.d, 150))
    bank = SMALL[case.bank] if case.bank else 0
    return case._replace(n=SMALL[case.n], d=SMALL_WIDTHS[case.d], bank=bank)
