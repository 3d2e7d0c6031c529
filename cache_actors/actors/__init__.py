"""The actors: each owns one kind of state, and is reached through the client in its module.

Each module has, in this order, the client, which is the actor's public face, the messages, and the
actor itself.
"""
