"""TensorRT-LLM's building side, as far as the model class uses it, on torch: networks are executed instead of built.

Arithmetic is float32 whatever a tensor's type is called, so that results can be compared with a reference; the types
are kept as names and checked by the rules of a strongly typed network. ASSUMPTIONS.md lists what this takes for granted
of the real library, and where that was read. Written from those facts; no code of TensorRT-LLM is in it.
"""
