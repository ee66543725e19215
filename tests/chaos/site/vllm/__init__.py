"""Stands before vLLM on the path of simulated instances: `python -m vllm...` starts an engine without a model.

Beside the server only the few names that the connector's two halves inherit from or are annotated with.
"""
