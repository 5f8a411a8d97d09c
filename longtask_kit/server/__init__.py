"""The app's process: what the queue calls, the attempt that runs, the HTTP API."""
