"""The executable model of the documented layout: it does what the documents say the kernel does.

It shares only `layout/` (and units, errors) with the decoders, so that a round trip proves something.
"""
