"""Benchmarks: how the figures in docs/benchmarks.md and in the target files were measured."""
