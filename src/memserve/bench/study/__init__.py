"""The micro-studies of the paper's evaluation: one question each, one shape of record for all.

`run.py` knows them by name; each study starts what it needs, measures alternately what it compares, and hands back
points. Those that need vLLM take about two minutes in their quick size.
"""
