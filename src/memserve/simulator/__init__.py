"""Clusters on a manual clock: the real scheduler and the real pool, with modelled compute. Binds no port."""
