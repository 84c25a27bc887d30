"""The libraries that do the work."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = {
    "pyav": "av",
    "spdl": "spdl",
    "opencv": "opencv-python-headless",
    "opencv_buffer": "opencv-python-headless",
    "decord": "decord",
    "torchcodec": "torchcodec",
    "torchvision": "torchvision",
    "pytorchvideo": "pytorchvideo",
}


def loaded_versions(decoder: str) -> dict[str, str]:
    """Names and versions; FFmpeg's where it is known which one decodes: OpenCV and decord carry
    one that does not say its release."""
    import av

    found = {"torch": version("torch"), "av": version("av"), "numpy": version("numpy")}
    package = _PACKAGES[decoder]
    try:
        found[package] = version(package)
    except PackageNotFoundError:  # e.g. opencv-python instead of its headless build
        found[package] = "unknown"
    if decoder == "spdl":
        from autotune.media.native import loaded_ffmpeg

        ffmpeg = loaded_ffmpeg()
        found["ffmpeg"] = f"{ffmpeg['release']} ({ffmpeg['source']})"
    elif decoder == "pyav":
        found["ffmpeg"] = f"{av.ffmpeg_version_info} (bundled)"
    return found
