"""Hostile and damaged input, a room a file: whatever it is, what uses it refuses it in one line and does nothing else.

`python -m tests.hostile` makes each of them, uses it as a node or a command would, and prints the table. A new kind is
a module with `cases()`, named in `__main__.ROOMS`.
"""
