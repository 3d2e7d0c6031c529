"""`make bare`: the two commands on a machine that has nothing else."""
