"""What a loader's own process tells while somebody watches it: one JSON line, twice a second.

    queues, stages, steps --a thread--> line --> a file that `autotune watch` reads, or a pipe

It runs in the process that is watched, so it is the standard library alone, computes nothing that
the reader can compute, and never blocks: a line that nobody takes is dropped. `autotune.live` is
the other side, in a process of its own.
"""
