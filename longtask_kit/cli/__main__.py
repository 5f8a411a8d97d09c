"""The `longtask` command, also as `python -m longtask_kit.cli`."""

import gc
import sys


def main() -> None:
    """Load the command and run it; Ctrl-C is exit code 130, also while it loads."""
    gc.disable()  # what is imported stays: looking through it takes a tenth of the start
    try:
        from longtask_kit.cli.main import main as run

        gc.freeze()
        gc.enable()
        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
