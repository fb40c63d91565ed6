"""How every command ends: what a user can cause in words with status 2, a bug with its stack."""

import sys
from collections.abc import Callable


def exit_status(command: str, work: Callable[[], int]) -> int:
    """Runs a command's work, flags and all.

    Args:
        command: its name, before what is said of an error.
        work: reads the flags and does what they say; gives the exit status.

    Returns:
        What `work` gives; 0 after --help; 2 for flags that cannot be read and for ValueError and OSError.
    """
    try:
        return work()
    except SystemExit as stop:  # tyro has said what is wrong, or printed --help
        return stop.code if isinstance(stop.code, int) else 2
    except (ValueError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2
