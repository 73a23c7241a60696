"""The one family of errors that are answered with a message instead of a traceback."""

from pffdst.core.words import shown

__all__ = ["LostError", "UserError", "needs"]


class UserError(Exception):
    """An error of the user's making: printed without a traceback, exit code 2.

    It may quote a file of anybody's: nothing in its text steers a terminal.
    """

    def __str__(self) -> str:
        return shown(self.told(), keep="\n")

    def told(self) -> str:
        """Its text as it comes."""
        return super().__str__()


class LostError(UserError):
    """The run has to stop: a process of it is gone or hangs. It can be resumed; exit code 1."""


def needs(what: str, error: ImportError, extra: str = "") -> UserError:
    """The error for a part of the program whose package is not installed: what it is, and what to write.

    `extra` is this package's own extra that has it.
    """
    package = (error.name or "").partition(".")[0].replace("_", "-")
    install = f"'pffdst[{extra}]'" if extra else package
    return UserError(f"{what} needs {package}, which is not installed: pip install {install}")
