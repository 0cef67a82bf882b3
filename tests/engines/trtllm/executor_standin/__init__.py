"""A stand-in for `tensorrt_llm.bindings.executor`, which the project's machines cannot have.

Its classes take the arguments of the real ones' signatures and no others. `runtime` behaves as the C++ sources say the
real executor does, and computes with the project's torch decoder over one prompt table for the whole batch, rotary
tables and a cache that is used again by token and extra ids. What it takes for granted, with its source, is in
README.md.
"""
