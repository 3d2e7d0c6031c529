"""Storage on disk: the layout of files, and the steps that publish each of them whole.

All calls block, and the actors run them in threads; nothing here knows of trio.
"""
