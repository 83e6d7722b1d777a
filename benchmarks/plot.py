"""Draw benchmarks/results/peers_cpu.csv as docs/images/peers.png."""

from __future__ import annotations

import csv
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "peers_cpu.csv"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "peers.png"


def draw(source: Path = RESULTS, target: Path = PICTURE) -> None:
    """Time and memory of every loss over the batch size, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with open(source, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["time_s"]]
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), constrained_layout=True)
    titles = {"time_s": "loss and gradient, seconds", "extra_mib": "peak extra memory, MiB"}
    for place, name in enumerate(dict.fromkeys(row["loss"] for row in rows)):
        own = [row for row in rows if row["loss"] == name]
        ours = name.startswith("fmicl")
        style = {"color": f"C{place % 10}", "linewidth": 2.2 if ours else 1.2,
                 "linestyle": "--" if "JAX" in name or name == "optax" else "-",
                 "marker": "o" if ours else "x", "markersize": 4}  # fmt: skip
        for panel, column in zip(panels, titles, strict=True):
            points = [(int(r["n"]), float(r[column])) for r in own if float(r[column]) > 0]
            panel.plot(*zip(*points, strict=True), label=name, **style)
    for panel, title in zip(panels, titles.values(), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="batch size N", title=title)
        panel.xaxis.set_major_formatter(lambda n, _: f"{n:g}")
        panel.set_xticks([256, 1024, 4096, 16384, 65536])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(target, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    draw()
