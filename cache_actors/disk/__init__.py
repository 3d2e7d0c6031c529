"""A process that writes to the disk for an actor.

Every system call of a thread gives up Python's lock and waits for it again, behind the event loop.
So commits are made in a process of their own, without an event loop: an actor sends it a batch over
a socket and is told the outcomes. It imports little, ignores signals, which are its parent's to
deal with, and ends when the other end of the socket is gone.
"""
