"""The list of clips of a data folder: scanned once a study, hashed, read by every measurement.

A manifest is what makes two measurements comparable: both take the same files in the same
seeded order, whatever the folder holds by then.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from autotune import frame_folders
from autotune.exceptions import DataError, InputError

ClipKind = Literal["videos", "frames"]
"""What a clip is: one file, or a folder of JPEG frames (see `frame_folders`)."""

VIDEO_EXTENSIONS = frozenset(
    (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv")
)

FLAT_CLASS = "."
"""Class of the clips that lie in the data folder itself."""

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """The clips of one data folder, in sorted order.

    The columns are parallel lists: clip ``i`` is ``paths[i]`` (relative to ``root``, POSIX
    separators), ``sizes[i]`` bytes long, of class ``classes[labels[i]]``.
    """

    root: str
    paths: list[str]
    sizes: list[int]
    labels: list[int]
    classes: list[str]
    hash: str
    """SHA-256 over relative paths and sizes: equal data in another place has an equal hash."""
    kind: ClipKind = "videos"

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def total_bytes(self) -> int:
        return sum(self.sizes)

    @property
    def file_name(self) -> str:
        """Name of the manifest's file. The root is part of it, as equal data may lie in two
        places of which one file could name only one."""
        place = hashlib.sha256(os.fsencode(self.root)).hexdigest()
        return f"manifest-{self.hash[:16]}-{place[:8]}.json"

    def path(self, index: int) -> str:
        """Absolute path of clip ``index``: its file, or the folder of its frames."""
        return os.path.join(self.root, self.paths[index])

    def files(self, index: int) -> list[str]:
        """Absolute paths of the files that clip ``index`` is made of; none where it is gone."""
        path = self.path(index)
        if self.kind == "videos":
            return [path]
        try:
            with os.scandir(path) as entries:
                return sorted(entry.path for entry in entries)
        except OSError:
            return []

    def order(self, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[int]:
        """The clips of one rank in one epoch, in the order in which they are read.

        Every epoch is a fresh permutation, and its ranks get disjoint shards whose lengths
        differ by at most one. With fewer clips than ranks a rank still gets one clip, which it
        then shares with another: a rank without any could not run.

        The permutation sorts raw Philox output (a bit stream that NumPy guarantees, unlike
        the methods of its Generator), so it is the same in every version.
        """
        import numpy as np

        if not 0 <= rank < world:
            raise InputError(f"rank: {rank} is not one of the {world} ranks (0 to {world - 1})")
        key = hashlib.sha256(f"{seed}:{epoch}".encode()).digest()[:16]
        stream = np.random.Philox(key=np.frombuffer(key, dtype="<u8"))
        count = len(self)
        permutation = np.argsort(stream.random_raw(count), kind="stable")
        shard = permutation[rank::world] if count >= world else permutation[[rank % count]]
        return [int(index) for index in shard]

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write the manifest into ``folder`` and return the file's path.

        Written beside and renamed: a reader sees a whole file or none.
        """
        target = Path(folder) / self.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        document = {
            "format": _FORMAT,
            "hash": self.hash,
            "kind": self.kind,
            "root": self.root,
            "classes": self.classes,
            "paths": self.paths,
            "sizes": self.sizes,
            "labels": self.labels,
        }
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".manifest-")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                # dumps, not dump: only the former uses the C encoder for the whole document.
                file.write(json.dumps(document, separators=(",", ":")))
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read a manifest that `write` made.

        Raises:
            InputError: if the file is missing or no manifest of this version.
        """
        try:
            document = json.loads(Path(path).read_bytes())
            if document["format"] != _FORMAT:
                raise InputError(
                    f"manifest: {path} has format {document['format']}, accepted is {_FORMAT}; "
                    "delete it: the next launch scans the data folder again"
                )
            return cls(
                root=document["root"],
                paths=document["paths"],
                sizes=document["sizes"],
                labels=document["labels"],
                classes=document["classes"],
                hash=document["hash"],
                kind=document.get("kind", "videos"),
            )
        except OSError as error:
            raise InputError(
                f"manifest: {path} cannot be read ({error.strerror}); "
                "the next launch scans the data folder again"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"manifest: {path} is no manifest ({error!r}); "
                "delete it: the next launch scans the data folder again"
            ) from error


def scan(data_dir: str | os.PathLike[str], kind: ClipKind | None = None) -> Manifest:
    """List the clips below ``data_dir``, in sorted order.

    A clip's class is the first folder on its way. Hidden files and folders are skipped. Links
    are followed, but never into a folder that the way already passed. A link to nothing, and a
    clip that could not be extracted, are listed with size 0: they fail by their name when they
    are read, instead of vanishing here.

    Args:
        kind: what the clips have to be; None: videos, or frames where they were extracted.

    Raises:
        InputError: if ``data_dir`` is no readable folder, or holds no clips of that kind.
    """
    root = os.path.abspath(os.fspath(data_dir))
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise InputError(
            f"data_dir: {data_dir} {what}; accepted is a folder of videos or of class folders "
            f"with videos (`autotune clips make {data_dir}` makes sample clips)"
        )
    if kind == "frames" or frame_folders.is_extracted(root):
        return _scan_frames(root, kind)
    found = list(_walk(root, "", (), _video_size))
    if not found:
        raise InputError(
            f"data_dir: {data_dir} holds no video; accepted are the extensions "
            f"{' '.join(sorted(VIDEO_EXTENSIONS))}, in the folder itself or in class folders "
            f"(`autotune clips make {data_dir}` makes sample clips)"
        )
    return _listed(root, found, "videos")


def _scan_frames(root: str, kind: ClipKind | None) -> Manifest:
    record = frame_folders.read_record(root)
    if kind == "videos":
        raise InputError(
            f"data_dir: {root} holds JPEG frames, and this target reads videos; give the folder "
            f"they were extracted from ({record.source}), or use the target frames"
        )
    if not record.complete:
        raise InputError(
            f"data_dir: {root} holds {record.extracted} of {record.clips} clips, as their "
            "extraction did not come to its end; run the same `autotune clips extract` again: "
            "it goes on"
        )
    found = list(_walk(root, "", (), _frames_size))
    if not found or len(found) != record.clips:
        raise InputError(
            f"data_dir: {root} holds the folders of {len(found)} clips, and its extraction made "
            f"{record.clips}; run the same `autotune clips extract` again, and remove folders "
            f"of clips that {record.source} does not hold"
        )
    return _listed(root, found, "frames")


def _listed(root: str, found: list[tuple[str, int]], kind: ClipKind) -> Manifest:
    names = [path.split("/", 1)[0] if "/" in path else FLAT_CLASS for path, _ in found]
    classes = sorted(set(names))
    index = {name: label for label, name in enumerate(classes)}
    digest = hashlib.sha256()
    for path, size in found:
        digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
    return Manifest(
        root=root,
        paths=[path for path, _ in found],
        sizes=[size for _, size in found],
        labels=[index[name] for name in names],
        classes=classes,
        hash=digest.hexdigest(),
        kind=kind,
    )


def _video_size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a clip's file, 0 if it is a link to nothing; None for anything else."""
    if entry.is_dir() or not _has_video_name(entry):
        return None
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _frames_size(entry: os.DirEntry[str]) -> int | None:
    """Bytes of a clip's frames, 0 if they cannot be told; None for anything else."""
    if not entry.is_dir() or not _has_video_name(entry):
        return None
    try:
        return frame_folders.index_bytes(
            entry.path, frame_folders.read_index(entry.path, entry.name)
        )
    except (DataError, OSError):
        return 0


def _has_video_name(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in VIDEO_EXTENSIONS


def _walk(
    folder: str,
    relative: str,
    above: tuple[tuple[int, int], ...],
    size_of: Callable[[os.DirEntry[str]], int | None],
) -> Iterator[tuple[str, int]]:
    """Yield (relative path, bytes) of each clip below ``folder``, depth first, sorted.

    Args:
        size_of: the bytes of an entry that is a clip, else None.
    """
    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:  # a link that leads back to where we came from
            return
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"data_dir: the folder {folder} cannot be read ({error.strerror}); "
            "make it readable or move it out of the data folder"
        ) from error
    for entry in listed:
        if entry.name.startswith("."):
            continue
        path = f"{relative}{entry.name}"
        size = size_of(entry)
        if size is not None:
            yield path, size
        elif entry.is_dir():
            yield from _walk(entry.path, f"{path}/", (*above, identity), size_of)
