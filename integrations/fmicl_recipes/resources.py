"""What of the machine this process may use: memory and cores, within the limits of a container."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

#: Linux's account of its processes and memory, and of its control groups.
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
#: What is taken for no limit.
ENDLESS = 2**60


def free_memory() -> int:
    """Bytes that a process can get: what the system and the container's limits leave to it.

    What only caches files counts as free.
    """
    system = _number(PROC / "meminfo", r"MemAvailable:\s+(\d+) kB")
    if system is None:
        try:
            system = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
        except (ValueError, OSError, AttributeError):
            system = ENDLESS // 1024
    return min([system * 1024, *_memory_left()])


def usable_cores() -> int:
    """Number of cores that this process may use, at least 1."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # on other systems than Linux
        cores = os.cpu_count() or 1
    quotas = []
    for group in _groups(""):
        limit = _read(group / "cpu.max").split()
        if len(limit) == 2 and limit[0].isdigit():
            quotas.append(int(limit[0]) / int(limit[1]))
    for group in _groups("cpu"):
        quota, period = (_number(group / f"cpu.cfs_{of}_us") for of in ("quota", "period"))
        if quota and period:
            quotas.append(quota / period)
    return max(1, int(min([cores, *quotas])))


def _memory_left() -> Iterator[int]:
    """Bytes left by the limit of each control group that this process is in, of both versions."""
    for controller, limit, usage, cache in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for group in _groups(controller):
            most, used = _number(group / limit), _number(group / usage)
            if most is not None and used is not None and most < ENDLESS:
                cached = _number(group / "memory.stat", rf"^{cache} (\d+)") or 0
                yield max(0, most - used + cached)


def _groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those above it.

    Args:
        controller: what the group is of, in version 1; empty for version 2, where it is of all.
    """
    for line in _read(PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            top = CGROUPS / controller
            inside = top / path.lstrip("/")
            yield from (p for p in (inside, *inside.parents) if p.is_relative_to(top))


def _number(file: Path, pattern: str = r"^(\d+)$") -> int | None:
    found = re.search(pattern, _read(file).strip(), re.MULTILINE)
    return int(found[1]) if found else None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except OSError:
        return ""
