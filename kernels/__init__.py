"""Arithmetic on arrays: numpy and numba, nothing of ours."""
