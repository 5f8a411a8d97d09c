"""Clients that others have made, each as it is published, against the app."""
