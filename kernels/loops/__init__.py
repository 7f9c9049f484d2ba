"""The portable path: plain loops, which the compiler makes of what the processor has."""
