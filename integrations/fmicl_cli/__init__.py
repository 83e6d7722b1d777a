"""The `fmicl` command."""

__all__: list[str] = []
