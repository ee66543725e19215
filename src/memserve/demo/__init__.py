"""The main job on real input, measured against plain vLLM: `memserve demo`. Drives the product as a user would."""
