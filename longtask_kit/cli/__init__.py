"""The `longtask` command."""
