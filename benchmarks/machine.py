"""What a measurement ran on, in columns that go with every row of every CSV file."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, packages_distributions, version

from fmicl_recipes.metrics import cpu_name


def machine(packages: tuple[str, ...]) -> dict[str, str]:
    """Processor, cores, Python and the versions of `packages`."""
    facts = {
        "cpu": cpu_name(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }
    distributions = packages_distributions()  # tensorflow may come from tensorflow-cpu
    for name in packages:
        try:
            facts[name] = version(distributions.get(name, [name])[0])
        except PackageNotFoundError:
            facts[name] = "missing"
    return facts
