"""Measures memserve beside its peers and the machine's limits. Drives the product from outside, as a user would.

Nothing else of memserve imports this room. Importing it costs nothing: the systems below run in
processes of their own, most of them in virtual environments without memserve's requirements.
"""
