"""Protocols that existing pages and SDKs speak, over the same tasks: events in, frames out."""
