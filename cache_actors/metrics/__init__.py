"""Metrics for operators: totals for Prometheus, and the last five minutes for `/up`.

Labels have few values, all known beforehand: never a token, an account, a project or an id.
"""
