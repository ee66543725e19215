"""The report of the evaluation: tables and figures of docs/evaluation.md, made from the files of the benchmarks.

`page.py` holds where in a page they go, `sections.py` what there is, one file each what a section shows.
"""
