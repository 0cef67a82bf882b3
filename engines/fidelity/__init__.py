"""Comparing a build's engines with the reference implementation in `transformers`, level by level.

The only part of `engines/` that needs torch and transformers (extra `check`); serving never imports it.
"""
