"""Text that is safe to print."""


def plain(text: str) -> str:
    """Without control characters, which names in models and of files may hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
