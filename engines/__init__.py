"""Artifacts to engines, and the adapters that run them."""
