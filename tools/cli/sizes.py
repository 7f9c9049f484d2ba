"""Bytes, as people write them."""


def size(text: str) -> int:
    """Bytes of a text such as 500MB; argparse shows this function's name in its error."""
    number = text.upper().removesuffix("B")
    power = {"K": 10, "M": 20, "G": 30}.get(number[-1:], 0)
    found = float(number[:-1] if power else number) * 2**power
    if not found < 2**63:
        raise ValueError("no machine has that much")
    return int(found)
