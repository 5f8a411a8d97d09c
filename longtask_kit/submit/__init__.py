"""What goes in: the task's spec, its record, its message in the queue."""
