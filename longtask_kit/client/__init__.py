"""The kernel's side: the kit, its tasks, and the thread that does their I/O."""
