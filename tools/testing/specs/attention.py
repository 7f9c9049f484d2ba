"""Multi-head self-attention over [batch, tokens, features], as exporters spell it.

x -> query, key, value -> apart by heads -> query key^T / root -> Softmax -> times value -> together
"""

import numpy as np

from onnx_compress.testing.builder import Builder, Known

Heads = tuple[int, int]  # how many, and the features of each


def attention(b: Builder, x: Known) -> Known:
    """Add it: three products or one, scaled after or before the scores, with a mask or without."""
    batch, tokens, features = x.shape
    count = b.one_of([1, *(n for n in (2, 4) if features % n == 0)])
    heads = (count, features // count)
    query, key, value = b.one_of([_three_products, _split, _picked])(b, x, heads)
    scores = _scores(b, query, key)
    if b.flag():
        mask = np.triu(np.full((tokens, tokens), -1e4, x.dtype), 1)
        scores = b.add("Add", [scores, b.constant(mask)], scores)
    shares = b.add("Softmax", [scores], scores, degree=1, axis=-1)
    mixed = b.add("MatMul", [shares, value], value, (batch, count, *value.shape[2:]))
    back = b.add("Transpose", [mixed], mixed, (batch, tokens, *heads), perm=[0, 2, 1, 3])
    joined = b.add("Reshape", [back, b.integers(0, tokens, features)], back, x.shape)
    return projected(b, joined, features)


def projected(b: Builder, x: Known, rows: int) -> Known:
    """A linear layer as torch exports it for more than two axes."""
    weight = b.weight((x.shape[-1], rows), x.dtype, x.shape[-1])
    made = b.add("MatMul", [x, weight], x, (*x.shape[:-1], rows))
    return b.add("Add", [made, b.weight((rows,), x.dtype)], made) if b.flag() else made


def _three_products(b: Builder, x: Known, heads: Heads) -> list[Known]:
    """As BERT does."""
    return _apart(b, [projected(b, x, x.shape[2]) for _ in range(3)], heads)


def _split(b: Builder, x: Known, heads: Heads) -> list[Known]:
    """One product, cut in three: as GPT-2 does."""
    features = x.shape[2]
    whole = projected(b, x, 3 * features)
    sizes = b.integers(features, features, features)
    b.add("Split", [whole, sizes], x, outputs=[x.shape] * 3, axis=2)
    return _apart(b, b.scope.pool[-3:], heads)


def _apart(b: Builder, parts: list[Known], heads: Heads) -> list[Known]:
    """Each by its heads; the key is turned at once."""
    batch, tokens, _ = parts[0].shape
    split = b.integers(0, tokens, *heads)
    found = []
    for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
        cut = b.add("Reshape", [part, split], part, (batch, tokens, *heads))
        found.append(b.add("Transpose", [cut], cut, tuple(cut.shape[a] for a in perm), perm=perm))
    return found


def _picked(b: Builder, x: Known, heads: Heads) -> list[Known]:
    """One product, turned as a whole and picked from: as vision transformers do."""
    batch, tokens, features = x.shape
    whole = projected(b, x, 3 * features)
    split = b.integers(0, tokens, 3, *heads)
    cut = b.add("Reshape", [whole, split], x, (batch, tokens, 3, *heads))
    shape = (3, batch, heads[0], tokens, heads[1])
    turned = b.add("Transpose", [cut], cut, shape, open=False, perm=[2, 0, 3, 1, 4])
    b.scope.pool.remove(turned)  # what may be open is not its first axis
    query, key, value = (
        b.add("Gather", [turned, b.constant(np.array(at))], x, shape[1:], axis=0) for at in range(3)
    )
    across = (*key.shape[:2], key.shape[3], key.shape[2])
    return [query, b.add("Transpose", [key], key, across, perm=[0, 1, 3, 2]), value]


def _scores(b: Builder, query: Known, key: Known) -> Known:
    """Divided or multiplied by a root; or both sides by the root of it, as torch 2 does."""
    width = query.shape[-1]
    shape = (*query.shape[:3], key.shape[3])
    way = b.integer(0, 2)
    if way == 2:
        half = b.constant(np.array(width**-0.25, query.dtype))
        query, key = (b.add("Mul", [side, half], side) for side in (query, key))
    scores = b.add("MatMul", [query, key], query, shape, degree=2)
    if way == 2:
        return scores
    root = np.array(width**0.5, query.dtype)
    if way:
        return b.add("Mul", [scores, b.constant(1 / root)], scores)
    return b.add("Div", [scores, b.constant(root)], scores)
