"""Serving on a GPU at the shapes of Qwen3-VL-30B-A3B: a made-up build, and what is measured on it."""
