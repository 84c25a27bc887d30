"""What every target that reads clips asks of its specification."""

from __future__ import annotations

from autotune.exceptions import InputError
from autotune.manifest import ClipKind, Manifest, scan
from autotune.trial import TrialSpec


def clips_of(spec: TrialSpec, kind: ClipKind = "videos") -> Manifest:
    """The clips to read: the study's manifest, or a fresh scan where there is none.

    Args:
        kind: what the target reads.

    Raises:
        InputError: no data folder, none that can be read or of another kind, or more classes
            than the consumer's model tells apart.
    """
    if spec.manifest is not None:
        manifest = Manifest.load(spec.manifest)
    elif spec.data_dir is not None:
        manifest = scan(spec.data_dir, kind)
    else:
        raise InputError(
            "data_dir: missing; accepted is a folder of videos or of class folders with videos "
            "(`autotune clips make DIR` makes sample clips)"
        )
    if spec.consumer.kind == "train_step" and len(manifest.classes) > spec.consumer.num_classes:
        raise InputError(
            f"consumer.num_classes: {spec.consumer.num_classes} is less than the "
            f"{len(manifest.classes)} classes of {manifest.root}; accepted is that or more"
        )
    return manifest
