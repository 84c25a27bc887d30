"""The project's own benchmarks. Each module runs with ``python -m experiments.benchmarks.NAME``.

loaders        spdl_video against decode alone, the published stages and a torch DataLoader
decoders       seconds for the same clips, per decoder
prefetch_cache prefetch_cache against torch_dataloader on storage of emulated latency
overhead       what our own processes cost while a trial measures
repeatability  trials of a study measured again, against themselves
gpu_check      proof of the NVDEC path on a machine with an NVIDIA GPU
gpu_grid       a whole grid of configurations, recorded with every window
recorded       what gpu_grid recorded, as a table for the repository
early_stopping the stopping rule, replayed on recorded and synthetic runs
"""
