"""`python -m longtask_kit.cli`: the `longtask` command."""

from longtask_kit.cli.main import main

main()
