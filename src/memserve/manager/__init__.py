"""Cluster manager: takes members in, watches them, and starts the instances of one machine."""
