"""The project's own benchmarks. Each module runs with ``python -m experiments.benchmarks.NAME``.

loaders        spdl_video against decode alone, the published stages and a torch DataLoader
overhead       what our own processes cost while a trial measures
repeatability  trials of a study measured again, against themselves
gpu_check      proof of the NVDEC path on a machine with an NVIDIA GPU
gpu_grid       a whole grid of configurations, recorded with every window
"""
