"""Search strategies: which configuration to measure next."""

from autotune.samplers.factory import SAMPLERS, choose, make_sampler, quiet_optuna, warming_up
from autotune.samplers.proposer import Proposal, Proposer

__all__ = [
    "SAMPLERS",
    "Proposal",
    "Proposer",
    "choose",
    "make_sampler",
    "quiet_optuna",
    "warming_up",
]
