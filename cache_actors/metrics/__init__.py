"""Metrics for operators: totals for Prometheus, and the last five minutes for `/up`.

Nothing here names a token, an account, a project or an id: labels take few values, all known.
"""
