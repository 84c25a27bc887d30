"""The libraries that do the work."""

from __future__ import annotations

from importlib.metadata import version

from autotune.media.decoders import library_of


def loaded_versions(decoder: str) -> dict[str, str]:
    """Names and versions; FFmpeg's where it is known which one decodes: OpenCV and decord carry
    one that does not say its release."""
    import av

    found = {"torch": version("torch"), "av": version("av"), "numpy": version("numpy")}
    package, release = library_of(decoder)
    found[package] = release
    if decoder == "spdl":
        from autotune.media.native import loaded_ffmpeg

        ffmpeg = loaded_ffmpeg()
        found["ffmpeg"] = f"{ffmpeg['release']} ({ffmpeg['source']})"
    elif decoder == "pyav":
        found["ffmpeg"] = f"{av.ffmpeg_version_info} (bundled)"
    return found
