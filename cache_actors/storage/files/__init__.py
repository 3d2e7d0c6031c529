"""Files: how they get to the disk, whole and to stay, and how they are read."""
