"""The worker process: `python -m autotune.worker` makes one measurement, or probes the machine.

__main__   entry: nothing heavy, as SPDL's and multiprocessing's children import it again
bootstrap  ties its life to the supervisor's, reads the specification, re-executes itself
guardian   a forked child that ends the trial when the supervisor dies
channel    events out, commands in
single     one rank, in one process
leader     several ranks, each a worker process of its own
probe      what this machine and this data folder are
faults     which kind of failure an exception is
"""
