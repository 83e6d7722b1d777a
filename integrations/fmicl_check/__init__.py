"""`fmicl check`: whether the frameworks installed here give the right numbers, and the same ones.

The losses: `case`, `battery` (all cases, and outcomes), `truth` (the right values), `report`. The
training: `training` (settings, images and weights), `columns` (the trainers), `parity` (their
losses and weights compared), `plot`. The losses see a framework through an `Adapter` (`base`,
`adapters`), and `frameworks` opens those that work; `processes` lets frameworks work side by side.

`fmicl_check.parity` and `.plot` are imported by name, so that this does not wait for scikit-learn.
"""

from fmicl_check.adapters import ADAPTERS
from fmicl_check.base import Adapter, Result
from fmicl_check.battery import Outcome, cases, run_case
from fmicl_check.case import Case

__all__ = ["ADAPTERS", "Adapter", "Case", "Outcome", "Result", "cases", "run_case"]


def __dir__() -> list[str]:
    return __all__
