"""Solvers: how the numbers of a weight are chosen. Arrays in, arrays out.

Notation, as in the papers: a layer is y = W x, W is [R, K], rows are output features; H = E[x xT],
[K, K], is the second moment of its inputs, damped; the loss of another weight V is

    J(V) = tr((W - V) H (W - V)T) = E|W x - V x|^2

Rows are independent given H, so everything runs over rows in parallel, in pieces of a fixed size
and with one thread of linear algebra each: bytes do not depend on the number of threads.
"""
