"""What a measurement ran on, in columns that go with every row of every CSV file."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, packages_distributions, version


def cpu_name() -> str:
    """Model name of the processor, or the architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            match = re.search(r"model name\s*:\s*(.+)", file.read())
    except OSError:
        match = None
    return match.group(1) if match else platform.machine()


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
