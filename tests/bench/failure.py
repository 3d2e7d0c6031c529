"""What goes wrong in a benchmark."""


class BenchmarkFailed(Exception):
    """What was measured is not what was meant, or there is nothing to measure with."""


class NotHere(Exception):
    """A part cannot be measured on this machine; the message says why. The others go on."""
