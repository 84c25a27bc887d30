"""The target ``python``: anybody's loader, made by a function of theirs.

target     settings, checks
functions  finds the function, and says what it can be called with
counting   samples and frames of a batch of any shape
loader     calls it, iterates over what it returns, again when it ends
"""

from autotune.targets.python.target import PythonTarget

__all__ = ["PythonTarget"]
