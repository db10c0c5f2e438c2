"""The root of every error that the worker raises; each kind is defined beside the code."""


class WorkerError(Exception):
    """A worker cannot start or go on; the text is one line that says what to do."""
