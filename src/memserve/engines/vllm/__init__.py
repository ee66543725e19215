"""vLLM enters through its public KVConnectorBase_V1 interface; nothing of vLLM is patched."""
