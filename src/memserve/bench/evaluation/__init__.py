"""The whole evaluation as one command: `parts.py` lists what is measured, `run.py` measures it, part after part."""
