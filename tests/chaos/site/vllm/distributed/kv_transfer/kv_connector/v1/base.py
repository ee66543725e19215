"""The base classes of what vLLM carries between a connector's halves."""


class KVConnectorMetadata:
    pass


class KVConnectorWorkerMetadata:
    pass
