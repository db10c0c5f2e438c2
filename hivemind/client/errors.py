"""What goes wrong on the client's side. ``str()`` of each is one line that says what to do.

This module imports nothing, so that a command can name these errors before it loads anything heavy.
"""


class ClientError(Exception):
    """The family of this package."""


class NoMaster(ClientError):
    """Nobody answers at the master's address."""


class LostConnection(ClientError):
    """The master was there, went away, and did not come back in time."""


class NoAnswer(ClientError):
    """The master is there and did not answer a call in time."""


class NotTrusted(ClientError):
    """The master could not be known by its certificate, or TLS is spoken by one side alone."""


class NotLoggedIn(ClientError):
    """No token is known for this master, or it is no longer good."""


class BadAddress(ClientError):
    """The master's address is not one, or the file that holds it cannot be read."""


class Refused(ClientError):
    """The master understood and said no."""


class NoSuchTask(Refused):
    """There is no such task, or it is another account's."""


class BadProgram(ClientError):
    """What was given to be run is no script, folder, archive or command that could be."""


class BadResult(ClientError):
    """A result cannot be written where it was wanted, or is not what a result should be."""
