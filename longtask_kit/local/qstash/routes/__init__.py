"""The queue's endpoints, a file for each part."""
