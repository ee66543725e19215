"""The OpenAI-compatible front: routes each request over one or two unmodified vLLM servers.

Owns HTTP towards clients and instances, the tokens used for routing, records and metrics. Decides nothing
about placement (scheduler) or membership (manager), never touches KV.
"""
