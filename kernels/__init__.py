"""Arithmetic on arrays: numpy only, nothing of ours."""
