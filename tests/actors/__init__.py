"""What the actors promise to their clients, on real disks and on a clock that jumps."""
