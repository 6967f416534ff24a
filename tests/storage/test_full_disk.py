"""The stores on a disk that is really full: a tmpfs of 1 MiB in a mount namespace of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage import on_tiny_disk


@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare to mount a disk in")
@pytest.mark.parametrize("case", [case.__name__ for case in on_tiny_disk.CASES])
def test_a_full_disk(case: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, on_tiny_disk.__file__, str(tmp_path), case],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == on_tiny_disk.MAY_NOT_MOUNT or "unshare failed" in done.stderr:
        pytest.skip(f"this user may not mount a disk: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []  # the disk was the namespace's alone
