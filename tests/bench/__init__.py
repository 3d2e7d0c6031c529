"""Measurements, run by hand: nothing here is a test, and nothing fails for being slow."""
