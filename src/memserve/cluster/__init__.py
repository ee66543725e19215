"""Membership: who is in the cluster, decided from facts. No I/O."""
