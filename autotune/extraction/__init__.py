"""`autotune clips extract`: clips to JPEG frames, once, so that training need not decode video.

``clip`` extracts one clip, in a worker process; ``run`` a whole folder. What lies where afterwards
is the business of `autotune.frame_folders`, which the target `frames` reads it by.
"""
