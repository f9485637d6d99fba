"""Decoders of what anybody may send, fed with what nobody would think of.

`python -m gnocchi.tests.fuzz TARGET [option of libFuzzer ...] DIRECTORY` goes on until something is found, and keeps in
the directory what was new; it needs atheris, the extra `fuzz`.  What is found becomes a file of `corpus/TARGET`, which
each run of the tests decodes, with atheris or without.
"""
