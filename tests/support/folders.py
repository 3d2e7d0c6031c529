"""Looking into folders that a service changes meanwhile."""

import os
from pathlib import Path


def files_below(folder: Path) -> list[Path]:
    """All that is not a folder below `folder`; folders that vanish are passed over."""
    return [Path(top, name) for top, _, names in os.walk(folder) for name in names]
