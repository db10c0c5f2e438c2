"""The family of errors that settings raise: each is one line for people."""


class SettingsError(Exception):
    """Something that people wrote down cannot be used as it is."""


class BadSetting(SettingsError):
    """A value, a key or a whole file is not what was expected; the line names where."""
