"""Which file system a path lies on."""

import os
from pathlib import Path

import pytest

from cache_actors.storage.mounts import file_system_at


def test_file_system_is_that_of_the_mount_with_the_paths_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path.stat().st_dev
    lines = [
        "22 1 0:99 / /proc rw,nosuid shared:5 - proc proc rw",
        f"30 1 {os.major(device)}:{os.minor(device)} / / rw - fuse.sshfs host:/ rw",
    ]
    monkeypatch.setattr(Path, "read_text", lambda _: "\n".join(lines))
    assert file_system_at(tmp_path) == "fuse.sshfs"
    del lines[1]
    assert file_system_at(tmp_path) == ""


def test_file_system_of_the_kernels_own_folder_is_proc() -> None:
    assert file_system_at(Path("/proc/self")) == "proc"
