"""Several processes as one service: a parent, and workers that each run the application.

Theory of operation
-------------------
With `WORKERS=N` the started process becomes a parent. It binds the socket and runs a supervision
tree, in which each worker is a child: a process that ends has crashed and is restarted, and more
crashes than the intensity allows end the parent. Each worker runs the tree of `application.py`.

    parent    accepts --> Pool --> WorkerChannel ==>     ConnectionReceiver --> listener   worker
              record  --> SharedReport   <------------------------------------------- report
                            `------- all shared reports, read by every worker ---------> /up

*A worker is a fresh interpreter* (`exec`), not a fork: a fork of the parent, which runs trio and
has threads, would share its event loop and the state of its locks. The price is half a second for
each start, and memory that is not shared.

*The parent accepts each connection and sends it* (`SCM_RIGHTS`) to the worker with the fewest. If
the workers accepted from one socket, connections would be distributed by chance, and nginx keeps
them open for long (figures: docs/performance.md). A worker reports that it takes a connection
before it reads from it; until then the parent keeps a copy. When a worker ends, the connections
that it had not taken go to others.

*Each process has a shared report*, a piece of shared memory that all processes can read
(`shared_report.py`). So any worker answers `/up` for the whole service without asking a process
that may be stuck. A process whose report is older than `STUCK_AFTER` counts as stuck.

*A stop* begins with the acceptor, the last child of the tree. It asks all workers to drain, and
sends new connections to those that still take them, until none does. Meanwhile the workers stop
their own trees in order, and end. A worker never outlives its parent: a thread watches the channel,
and ends the worker at once when the other end is closed.
"""
