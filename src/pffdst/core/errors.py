"""The one family of errors that are answered with a message instead of a traceback."""

__all__ = ["UserError"]


class UserError(Exception):
    """An error of the user's making: printed without a traceback, exit code 2."""
