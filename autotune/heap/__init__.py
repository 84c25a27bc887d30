"""What grows in the Python heap of a process, and what holds it: on request, while it runs.

    agent    a thread in every process of a loader: looks now and then, writes down what grows
    census   one look: objects by kind, tensors by shape; what has kept growing since the first
    holders  the name of what holds an object: ``my_transform.Retain.kept (list of 812)``

Objects are counted that Python's garbage collector tracks, and what those refer to directly of
arrays, bytes and text of 1 KiB or more. Memory of native code is not seen. Standard library
only; torch and NumPy are looked at where they are loaded.
"""

from __future__ import annotations

from autotune.heap.agent import gather, join, leave, locate
from autotune.heap.census import HeapCensus

__all__ = ["HeapCensus", "gather", "join", "leave", "locate"]
