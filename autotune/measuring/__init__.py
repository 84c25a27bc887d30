"""One measurement, in the worker process: its loop, what it samples, checks and concludes."""
