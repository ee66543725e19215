"""`memserve bench serve`: whole systems play the same sessions on this machine, one system after the other.

    workloads -> sessions -> (a system is started, plays, is stopped) -> record lines -> table

`sessions.py`, `workloads.py` and `record.py` import neither vLLM nor torch: the simulator plays the same sessions,
and figures are drawn from the same lines.
"""
