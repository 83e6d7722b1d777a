"""A study: many runs, some of which choose the options of others, and one table of them all.

`plan.py` reads what there is to train, `rows.py` keeps what was measured, `course.py` says which
runs are due, `summary.py` and `pictures.py` show what came out.
"""

from fmicl_recipes.study.course import chosen, due
from fmicl_recipes.study.plan import FINAL, TUNING, Job, Study
from fmicl_recipes.study.rows import Results

__all__ = ["FINAL", "TUNING", "Job", "Results", "Study", "chosen", "due"]
