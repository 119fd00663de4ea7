"""The one kind of error that is the user's to mend, and how a command reports it."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input: the message says what is wrong, where, and what to do about it."""


def run_cli(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with its code; a `UserError` is printed in one line, exit code 2."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    sys.exit(code)
