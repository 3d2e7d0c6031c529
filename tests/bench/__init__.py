"""Benchmarks that anyone can repeat: `make bench`.

Theory of operation
-------------------
Six questions, six parts, each a module:

- `comparison.py`: how fast is the service beside what else there is? Everybody runs at once, and
  wrk asks one after the other for the same, in short turns and several rounds.
- `versions.py`: is it faster than it was? An earlier version (`checkout.py` gets it from git) and
  this one run at once, and wrk asks both for what the service answers itself, without nginx.
- `mixed.py`: how many build farms does it take? `farm.py` says what they ask for and when,
  `generator.py` asks, whatever becomes of it, and counts from when it should have been asked.
- `scale.py`: does it matter how much is stored? `fill.py` makes a million artifacts, and the
  service is asked for some of them.
- `recovery.py`: how long does a start take after a power cut? Logs are filled, and files torn.
- `remote_execution.py`: how fast are calls by gRPC? h2load calls everybody in turns, and Bazel
  builds, with this cache, its own and none.

What they find out are values (`results.py`) that are kept as JSON; tables, plots and the block in
docs/performance.md are made of those alone. What the figures mean is said there.

`targets.py` says what they are to come to, and what bounds those that are missed.

Some are benchmarks of their own, each a command, for whoever changes what they look at:
`nginx_reads.py` (what nginx answers, also over TLS and HTTP/2), `durability.py` (syncs, by the
store alone), `fairness.py` (one project beside another), `workers.py` (ways to spread connections)
and `eviction.py` (passes, and reads beside them).
"""
