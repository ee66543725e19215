"""Clusters under load while everything that can break is broken: `make chaos`."""
