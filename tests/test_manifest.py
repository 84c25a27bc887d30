"""The manifest: what it lists, that it is stable, and how it is shared out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.exceptions import InputError
from autotune.manifest import Manifest, scan


def fill(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    return root


def test_class_folders_are_listed_in_sorted_order(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "b/2.mp4",
        "a/deep/er/1.MKV",
        "a/0.webm",
        "b/notes.txt",
        ".hidden/3.mp4",
        "b/.4.mp4",
    )
    manifest = scan(tmp_path)
    assert manifest.paths == ["a/0.webm", "a/deep/er/1.MKV", "b/2.mp4"]
    assert manifest.sizes == [2, 1, 0]
    assert manifest.classes == ["a", "b"]
    assert manifest.labels == [0, 0, 1]
    assert len(manifest) == 3
    assert manifest.total_bytes == 3
    assert manifest.path(2) == str(tmp_path / "b" / "2.mp4")


def test_a_flat_folder_is_one_class(tmp_path: Path) -> None:
    manifest = scan(fill(tmp_path, "1.mp4", "0.avi"))
    assert manifest.classes == ["."]
    assert manifest.labels == [0, 0]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside", "clip.mp4", "more/clip.mp4")
    root = fill(tmp_path / "data", "a/0.mp4")
    (root / "a" / "linked.mp4").symlink_to(outside / "clip.mp4")
    (root / "b").symlink_to(outside)
    (root / "a" / "back").symlink_to(root)
    (root / "a" / "gone.mp4").symlink_to(root / "nothing")
    assert scan(root).paths == [
        "a/0.mp4",
        "a/gone.mp4",
        "a/linked.mp4",
        "b/clip.mp4",
        "b/more/clip.mp4",
    ]


def test_the_hash_is_of_names_and_sizes(tmp_path: Path) -> None:
    one = scan(fill(tmp_path / "one", "a/0.mp4", "a/1.mp4"))
    same = scan(fill(tmp_path / "same", "a/0.mp4", "a/1.mp4"))
    renamed = scan(fill(tmp_path / "renamed", "a/0.mp4", "a/2.mp4"))
    resized = scan(fill(tmp_path / "resized", "a/1.mp4", "a/0.mp4"))
    assert one.hash == same.hash
    assert len({one.hash, renamed.hash, resized.hash}) == 3
    assert one.file_name != same.file_name  # equal data in two places are two manifests


def test_it_is_written_whole_and_read_back(tmp_path: Path) -> None:
    odd = os.fsdecode(b"a/\xff name.mp4")
    manifest = scan(fill(tmp_path / "data", odd, "a/1.mp4"))
    path = manifest.write(tmp_path / "cache" / "new")
    assert manifest.hash[:16] in path.name
    assert Manifest.load(path) == manifest
    assert manifest.write(path.parent) == path
    assert os.listdir(path.parent) == [path.name]  # nothing half-written is left


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("{", "is no manifest"), ('{"format": 99}', "has format 99")],
)
def test_a_broken_manifest_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "manifest.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=words) as caught:
        Manifest.load(path)
    assert str(path) in str(caught.value)


def test_wrong_folders_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "empty/readme.txt", "file")
    for folder, words in [
        (tmp_path / "empty", "holds no video; accepted are the extensions"),
        (tmp_path / "file", "is not a folder"),
        (tmp_path / "nothing", "does not exist"),
    ]:
        with pytest.raises(InputError) as caught:
            scan(folder)
        assert words in str(caught.value)
        assert str(folder) in str(caught.value)
        assert "autotune clips make" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_folder_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a/0.mp4", "b/0.mp4")
    (tmp_path / "b").chmod(0)
    with pytest.raises(InputError, match="cannot be read"):
        scan(tmp_path)


def made(count: int) -> Manifest:
    return Manifest(
        "/data", [f"{i}.mp4" for i in range(count)], [1] * count, [0] * count, ["."], ""
    )


@given(
    count=st.integers(1, 200),
    world=st.integers(1, 12),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 99),
)
def test_shards_cover_an_epoch_once(count: int, world: int, seed: int, epoch: int) -> None:
    shards = [made(count).order(seed, epoch, rank, world) for rank in range(world)]
    assert all(shards)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    listed = sorted(index for shard in shards for index in shard)
    if count >= world:
        assert listed == list(range(count))
    else:
        assert set(listed) == set(range(count))  # ranks share the few clips there are


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    manifest = made(50)
    assert manifest.order(1, 0) == made(50).order(1, 0)
    orders = [manifest.order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({json.dumps(order) for order in orders}) == 4
    # Written down: an order that changed would make old measurements incomparable.
    assert made(8).order(0, 0) == GOLDEN


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(InputError, match=r"rank: 2 is not one of the 2 ranks"):
        made(4).order(0, 0, 2, 2)


GOLDEN = [2, 1, 3, 4, 5, 7, 0, 6]
