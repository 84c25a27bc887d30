"""Search strategies: which configuration to measure next."""

from autotune.samplers.factory import SAMPLERS, choose, make_sampler
from autotune.samplers.proposer import Proposal, Proposer

__all__ = ["SAMPLERS", "Proposal", "Proposer", "choose", "make_sampler"]
