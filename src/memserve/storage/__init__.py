"""The bytes of a tier: equally sized blocks, addressed by index. Decides nothing."""
