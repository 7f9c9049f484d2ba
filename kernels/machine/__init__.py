"""What stands between a kernel and the processor: compiling, choosing a path, threads."""
