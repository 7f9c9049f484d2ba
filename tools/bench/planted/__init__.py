"""Faults that verify has to find: one file a class."""
