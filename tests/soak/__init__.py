"""The soak: the real service behind real nginx, while everything that can fail does, at random.

    .venv/bin/python -m tests.soak --seconds 300

`world.py` knows what was sent and what may be answered, `clients.py` asks, `faults.py` breaks
things, `checks.py` looks at the disk, `site.py` is what runs, `rounds.py` puts them together, and
`report.py` prints what came of it.

`growth.py` is a soak of its own, of eviction.
"""
