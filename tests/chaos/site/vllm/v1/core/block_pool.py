"""The engine's own prefix cache, which simulated engines do not have."""


class BlockPool:
    pass
