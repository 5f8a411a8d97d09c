"""Upstash's Redis REST protocol in front of a real Valkey."""
