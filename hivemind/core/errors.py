"""The root of every error that core raises; each kind is defined beside the code that raises it."""


class CoreError(Exception):
    """Something that was asked of the pure rules cannot be; the text is one line for people."""
