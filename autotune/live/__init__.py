"""Watching a loader from a process of its own: what it publishes, with a history.

    folder or pipe -> channel -> lines -> history -> points (rates, queues, stages) + usage (memory)

`autotune.publishing` is the other side, in the process that is watched.
"""
