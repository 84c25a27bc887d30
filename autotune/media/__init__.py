"""Video in: native libraries, demuxing, decoding, the slow reference, probing and sample clips.

``native`` and ``windows`` import neither av, spdl, torch nor numpy; the other modules are for the
worker process, which ``native.library_environment`` prepares. Import the modules by name.
"""
