"""Copies of a model, and the count of its edits."""

import numpy as np

from onnx_compress.ir.graph import clone, to_bytes
from onnx_compress.ir.graph.dead import remove_unused
from onnx_compress.ir.graph.invariants import check

from graphs import BRANCHES, LOOP, node, value, view


def test_a_copy_writes_the_same_bytes_and_shares_no_edit():
    model = view(BRANCHES)
    copy = clone(model)
    check(copy)
    before = to_bytes(model)
    assert to_bytes(copy) == before
    b = value(copy, "b")
    copy.set_constant(b, np.float32([9, 9]))
    copy.rename(value(copy, "h"), "other")
    copy.replace_uses(value(copy, "y"), copy.add_node(copy.graph, "Neg", [value(copy, "x")]))
    copy.set_opset("", 18)
    copy.remove(node(copy, "If"))
    check(copy)
    assert to_bytes(model) == before
    check(model)
    assert to_bytes(copy) != before


def test_a_copy_of_an_edited_model_is_as_edited():
    model = view(LOOP)
    w = value(model, "w")
    model.replace_uses(w, model.add_node(model.graph, "Neg", [value(model, "x")], stem="n"))
    remove_unused(model, [w])
    copy = clone(model)
    check(copy)
    assert to_bytes(copy) == to_bytes(model)
    assert copy.edits == model.edits
    assert copy.fresh("n") == model.fresh("n") != "n"


def test_edits_are_counted():
    model = view(BRANCHES)
    seen = [model.edits]
    for edit in (
        lambda: model.set_attribute(node(model, "Add"), "a", 1),
        lambda: model.add_constant(model.graph, np.float32(1), "k"),
        lambda: model.set_constant(value(model, "b"), np.float32([0, 0])),
        lambda: model.set_opset("x", 1),
        lambda: model.rename(value(model, "h"), "other"),
    ):
        edit()
        seen.append(model.edits)
    assert seen == sorted(set(seen))
