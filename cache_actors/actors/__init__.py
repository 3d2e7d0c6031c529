"""The tasks of the supervision tree, but for the listener: actors, and tasks without a mailbox.

An actor owns one kind of state, and is reached by messages alone. Its module has, in this order,
the client, which is the actor's public face, the messages, and the actor itself.

Nobody sends messages to the housekeeper, the scrubber and the nginx counter, so they have neither a
mailbox nor a client. They do their work at intervals, until the supervisor stops them.
"""
