"""What comes out: a task's record and log in Redis, and how they are followed."""
