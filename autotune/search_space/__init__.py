"""Search spaces: what can be varied, within which bounds, under which conditions.

space = SearchSpace.load("search_spaces/spdl_video.yaml")
searched = space.subset({"device": "cpu"}, vary_workload=["subclip_duration"])
for params in searched.enumerate(): ...
"""

from autotune.search_space.conditions import NODE_NAMES
from autotune.search_space.packaged import find_space
from autotune.search_space.parameter import Kind, Parameter
from autotune.search_space.space import SearchSpace, value_from_text

__all__ = ["NODE_NAMES", "Kind", "Parameter", "SearchSpace", "find_space", "value_from_text"]
