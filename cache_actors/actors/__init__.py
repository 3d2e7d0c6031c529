"""The actors: each owns one kind of state, and is reached through the client in its module.

Every module reads from the outside in: first the client, which is the actor's public face, then its
messages, then the actor itself.
"""
