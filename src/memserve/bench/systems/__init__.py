"""One module per measured system, each the main program of a child process that answers requests on stdin.

Those of peers run in a virtual environment of the peer, where of memserve only this package and
`bench/prompts.py` can be imported: they need NumPy and the standard library, and no other room.
"""
