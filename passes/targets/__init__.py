"""The shipped targets, one file each."""
