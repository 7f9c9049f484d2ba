"""The fast paths: one tile for all products of codes, and one small primitive per processor."""
