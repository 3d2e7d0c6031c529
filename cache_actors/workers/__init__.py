"""Several processes as one service: a parent, and workers that each run the application.

Theory of operation
-------------------
With `WORKERS=N` the process that was started becomes a parent. It binds the socket and runs a tree
of its own, in which each worker is a child like any other: a process that ends is a crash, and is
restarted, and more crashes than the intensity allows end the parent. Each worker runs the tree that
`application.py` draws.

    parent    accepts --> Pool --> WorkerChannel ==>     ConnectionReceiver --> listener   worker
              record  --> SharedReport   <------------------------------------------- report
                            `------- all shared reports, read by every worker ---------> /up

*A worker is a fresh interpreter* (`exec`), not a fork: it has to be started at any time, and a fork
of a process that runs trio and has threads would share its loop and their locks. The price is half
a second for each start, and memory that is not shared.

*The parent accepts, and hands each connection over* (`SCM_RIGHTS`) to the worker with the fewest.
What several processes accept from one socket is shared out by chance, and nginx keeps connections
for long: figures are in docs/performance.md. The parent keeps its own copy of a connection until
the worker has said that it takes it, before it reads a byte of it. When a worker ends, what it had
not taken goes to another, and only what it had taken is lost with it.

*Each process has a shared report*, a piece of shared memory with its latest report, which all can
read (`shared_report.py`). So `/up` shows the whole service through any worker, from records,
without asking anybody who might be stuck. A report that is older than `STUCK_AFTER` is one of a
process that is.

*A stop* begins at the end of the tree, with the acceptor: it tells all workers to drain and hands
connections to those that still do, until none does. Meanwhile workers stop their own trees in
order, and end. Nothing keeps a worker alive without its parent: it watches its end of the channel,
from a thread, and ends at once when the other end is gone.
"""
