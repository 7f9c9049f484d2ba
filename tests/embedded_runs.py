"""What the tests of the library inside of other programs share."""

from models_by_text import draw, two_layers

SOURCE = two_layers()
DATA, FEED = {"x": draw(8, 96)}, {"x": draw(4, 96)}
TEXT = "prune(sparsity=0.3),quant(bits=8)"
