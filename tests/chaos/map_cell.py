"""A kernel with one cell: `python -m tests.chaos.map_cell`.

It gets ready at once, runs the cell for the rows that it is told by a line on standard input, and
prints the frame. Whatever goes wrong ends it, as it would end the cell.
"""

import json
import sys

import pandas as pd

import longtask_kit as lt


def main() -> None:
    """Get ready, wait for the rows, run the cell."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    job = json.loads(sys.stdin.readline())
    with lt.connect(settings=lt.Settings(_env_file=None), quiet=True) as kit:
        group = kit.map(pd.DataFrame({"text": job["rows"]}), "{text}", **job["options"])
        group.results(errors="return")
        frame = group.to_frame().drop(columns="task_id")
    sys.stdout.write(f"{frame.to_json()}\n")


if __name__ == "__main__":
    main()
