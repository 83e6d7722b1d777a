"""`fmicl check`: do the frameworks installed here give the right numbers, and the same ones?"""

from fmicl_check.adapters import ADAPTERS, Adapter, Result

__all__ = ["ADAPTERS", "Adapter", "Result"]
