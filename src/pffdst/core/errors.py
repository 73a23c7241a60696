"""The only errors that are reported with a message instead of a traceback."""

from pffdst.core.words import shown

__all__ = ["LostError", "UserError", "needs"]


class UserError(Exception):
    """A user error: printed without a traceback, exit code 2.

    It may quote an untrusted file, so its text contains no terminal control sequences.
    """

    def __str__(self) -> str:
        return shown(self.told(), keep="\n")

    def told(self) -> str:
        """Its text, unescaped."""
        return super().__str__()


class LostError(UserError):
    """The run must stop because processes or nodes that it needs are gone. It can be resumed; exit code 1."""


def needs(what: str, error: ImportError, extra: str = "") -> UserError:
    """The error for a feature whose package is not installed: its name and the command that installs it.

    `extra` is the extra of this package that contains it.
    """
    package = (error.name or "").partition(".")[0].replace("_", "-")
    install = f"'pffdst[{extra}]'" if extra else package
    return UserError(f"{what} needs {package}, which is not installed: pip install {install}")
