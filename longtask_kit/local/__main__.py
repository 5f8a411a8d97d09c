"""`python -m longtask_kit.local`: the stack's process, started by `LocalStack`."""

import gc
import logging
import os
import shutil
import sys

from longtask_kit.errors import LocalStackError
from longtask_kit.local.config import OPTIONS_VARIABLE
from longtask_kit.local.files import told_of_disk


def main() -> int:
    """Run a stack; a failure to start is one line on standard error."""
    gc.disable()  # until `warm_up`: what is imported stays, and looking through it takes 0.3 s
    from longtask_kit.local.process import parse_options, serve_for_ever

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    for told_too_much in ("httpx", "longtask_kit.stages"):  # of the latter LONGTASK_LOG has more
        logging.getLogger(told_too_much).setLevel("WARNING")
    config, files = parse_options(os.environ.pop(OPTIONS_VARIABLE))
    try:
        with told_of_disk(files):
            serve_for_ever(config, files, announce=lambda _: None, owned="--owned" in sys.argv)
    except LocalStackError as exc:
        sys.stderr.write(f"LocalStackError: {exc}\n")
        return 1
    if "--scratch" in sys.argv:  # here, since a killed owner can't do it
        shutil.rmtree(config.data_dir, ignore_errors=True)
        files.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
