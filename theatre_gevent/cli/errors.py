"""Ends of the command other than good ones. Each is one line on stderr and an exit code."""

from __future__ import annotations

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit codes; `theatre --help` says what they mean. 130 and 143 are what shells report of Ctrl+C and SIGTERM."""


class CommandError(Exception):
    """The command ends with this line and this exit code.

    Args:
        text: The line, without the command's name.
        code: The exit code.
    """

    def __init__(self, text: str, code: int = FAILED) -> None:
        super().__init__(" ".join(text.split()))
        self.code = code


class UsageMistake(CommandError):
    """Whoever called the command asked for something that can't be; the exit code is 2."""

    def __init__(self, text: str) -> None:
        super().__init__(text, USAGE)
