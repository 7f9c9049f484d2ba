"""A main graph run in stages: what is needed to reach some values, and nothing twice.

part = reaching(model, [x], done)     nodes that make x and are not done yet
"""

from collections.abc import Collection, Iterable
from functools import partial

from onnx_compress.ir.graph.model import Model
from onnx_compress.ir.graph.partition import Part, supplied
from onnx_compress.ir.graph.view import Node, Value


def reaching(
    model: Model,
    values: Iterable[Value],
    done: Collection[Node],
    fixed: set[Node],
    again: Collection[Node] = (),
) -> Part:
    """The nodes of the main graph that make these values, but for those that are done.

    `fixed`: see `partition.repeatable`. `again`: nodes that are never done, but run again for
    whoever reads them. What any node that is not done reads is given out as well. `last_reads`:
    what only nodes of this part still needed.
    """
    wanted = list(values)
    found: set[Node] = set()
    todo = [value.producer for value in wanted]
    while todo:
        node = todo.pop()
        if node is None or node in found or node in done or node in fixed:
            continue
        found.add(node)
        todo += [v.producer for v in (*node.inputs, *node.captures) if v is not None]
    nodes = [node for node in model.graph.sorted() if node in found]
    reads = dict.fromkeys(
        value
        for node in nodes
        for value in (*node.inputs, *node.captures)
        if value is not None
        and value.graph is model.graph
        and model.tensor(value) is None
        and value.tensor is None
        and value.producer not in found
        and value.producer not in fixed
    )
    # what is wanted, and computed from constants alone
    steady = [v for v in wanted if v.producer in fixed and model.tensor(v) is None]
    made = [value for node in nodes for value in node.outputs if value is not None]
    after = {*done, *found}
    gives = [
        value
        for value in made
        if value in wanted
        or (value.producer not in again and _read_later(model, value, after, again))
    ]
    last = [v for v in reads if v not in wanted and not _read_later(model, v, after, again)]
    makers = [*nodes, *(v.producer for v in steady if v.producer is not None)]
    whole = (*supplied(makers, fixed), *nodes)
    return Part(whole, tuple(reads), (*gives, *dict.fromkeys(steady)), tuple(last))


def _read_later(
    model: Model, value: Value, done: Collection[Node], again: Collection[Node]
) -> bool:
    """Whether a node that is not done reads it, or what is made of it again."""
    todo, seen = [value], {value}
    while todo:
        for node in map(partial(_outer, model), todo.pop().consumers):
            if node not in again:
                if node not in done:
                    return True
                continue
            made = [v for v in node.outputs if v is not None and v not in seen]
            if any(v.exits for v in made):
                return True
            todo += made
            seen.update(made)
    return False


def _outer(model: Model, node: Node) -> Node:
    """The node of the main graph that is, or whose bodies hold, a node."""
    while node.graph is not model.graph and node.graph.owner is not None:
        node = node.graph.owner
    return node
