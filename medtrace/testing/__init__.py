"""The public contract of a method, as a function that raises where a method breaks it."""

from medtrace.testing.contract import ContractError, check_method

__all__ = ["ContractError", "check_method"]
