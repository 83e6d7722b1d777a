"""`make release-check`: whether what is in this clone can be released.

`versions` (one version everywhere), `build` (sdist and wheel), `contents` (what is in them), `api`
(against the last tag), `matrix` (which environments there are), `environments` (made, one after the
other, and `smoke` run in each), `report` (a line a step, and the summary).
"""
