"""The disk: where files lie, and how they get there without ever being seen half done.

Plain blocking calls, which the actors run in threads; nothing here knows of trio.
"""
