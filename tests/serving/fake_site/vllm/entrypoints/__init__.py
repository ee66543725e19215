"""Stands for the package of the same name in tests that start processes."""
