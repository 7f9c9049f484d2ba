"""models(): a Hypothesis strategy of valid ONNX models.

A model grows forward: a value is drawn from those that exist, then a row of the table from those
that fit it, then the numbers of that row. Nothing is filtered, so shrinking gives few nodes and
small sizes.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from onnx import ModelProto, helper

from onnx_compress.testing.builder import Builder, Known
from onnx_compress.testing.outline import outlined
from onnx_compress.testing.spec import ALL, Spec
from onnx_compress.testing.specs import FAMILIES, SPECS

OPSETS = (13, 21)
OLDEST, NEWEST = 11, 23
_IR = ((23, 11), (21, 10), (19, 9), (1, 8))  # operator set from which, version of the format


def operators() -> list[str]:
    """All operators that models may have."""
    return sorted({op for spec in SPECS for op in spec.operators})


def models(
    ops: Iterable[str] | None = None,
    max_nodes: int = 12,
    dtypes: Sequence[str] = ("float32",),
    opsets: tuple[int, int] = OPSETS,
    subgraphs: bool = True,
    functions: bool = False,
    dynamic: bool = True,
) -> SearchStrategy[ModelProto]:
    """Valid random models with weights.

    `ops`: only these operators, or blocks (attention, residual, ...) of the table in `specs/`; one
    that never stands alone comes with what it needs, as Sqrt does with Abs and Add.
    `max_nodes`: steps; a block is one step. `dtypes`: of inputs, "float32", "float16", "float64".
    `opsets`: the oldest and the newest operator set, from 11 to 23. `subgraphs`: If and Loop.
    `functions`: some nodes are put into functions of the model. `dynamic`: the first axis of the
    inputs may be open, called N.

    Raises ValueError where no row of the table is left.
    """
    low, high = opsets
    if not OLDEST <= low <= high <= NEWEST:
        raise ValueError(f"operator sets {low} to {high} are not drawn, {OLDEST} to {NEWEST} are")
    if max_nodes < 1:
        raise ValueError(f"a model has at least one node, not {max_nodes}")
    if not dtypes or set(dtypes) - set(ALL):
        raise ValueError(f"inputs are of {', '.join(ALL)}, not {', '.join(dtypes) or 'nothing'}")
    versions = range(low, high + 1)
    rows = [spec for spec in SPECS if subgraphs or not spec.body]
    rows = [spec for spec in rows if any(map(spec.allowed, versions))]
    rows = rows if ops is None else _chosen(set(ops), rows)
    kinds = {
        version: found
        for version in reversed(versions)
        if (found := [d for d in dtypes if _usable(rows, version, d)])
    }
    missing = [dtype for dtype in dtypes if all(dtype not in found for found in kinds.values())]
    if missing:
        raise ValueError(f"in operator sets {low} to {high}, nothing asked for takes {missing[0]}")
    families = [kept for family in FAMILIES if (kept := [spec for spec in family if spec in rows])]
    return _models(families, max_nodes, kinds, functions, dynamic)


def _chosen(wanted: set[str], rows: Sequence[Spec]) -> list[Spec]:
    """Rows of these operators alone; for one that has none, the smallest row with it."""
    names = {*operators(), *(spec.block for spec in SPECS if spec.block)}
    if wanted - names:
        raise ValueError(f"not in the table: {', '.join(sorted(wanted - names))}")
    found = [s for s in rows if s.block in wanted or set(s.operators) <= wanted]
    for op in sorted(wanted - {op for spec in found for op in spec.operators}):
        having = [spec for spec in rows if op in spec.operators]
        found += [min(having, key=lambda spec: len(spec.operators))] if having else []
    return found


def _usable(rows: Sequence[Spec], version: int, dtype: str) -> list[Spec]:
    return [spec for spec in rows if spec.allowed(version) and dtype in spec.floats]


@st.composite
def _models(
    draw: DrawFn,
    families: Sequence[Sequence[Spec]],
    max_nodes: int,
    kinds: Mapping[int, Sequence[str]],
    functions: bool,
    dynamic: bool,
) -> ModelProto:
    """`kinds`: the operator sets to choose from, and the types that each has something for."""
    opset = [*kinds][draw(st.integers(0, len(kinds) - 1))]
    dtype = kinds[opset][draw(st.integers(0, len(kinds[opset]) - 1))]
    rows = [spec for family in families for spec in family]
    b = Builder(draw, opset, draw(st.integers(0, 2**16)), rows)
    b.start(dtype, dynamic)
    steps = 0
    while steps < max_nodes and draw(_step(b, families, steps, max_nodes)):
        steps += 1
    model = _finished(b, opset)
    return outlined(model, b.flag(), b.integer(0, steps - 1)) if functions else model


@st.composite
def _step(
    draw: DrawFn, b: Builder, families: Sequence[Sequence[Spec]], done: int, most: int
) -> bool:
    """Add a row, or say that there are enough. One draw, so that shrinking can leave out a step."""
    more = draw(st.integers(0, most))  # the first asks too, so that any may take its place
    if done and not more:
        return False
    for x in b.recent():
        if _fits(b, x, b.rows):
            family = b.fitting(families, partial(_fits, b, x))
            b.fitting(family, partial(b.takes, x)).add(b, x)
            break
    return True


def _fits(b: Builder, x: Known, rows: Sequence[Spec]) -> bool:
    return any(b.takes(x, row) for row in rows)


def _finished(b: Builder, opset: int) -> ModelProto:
    """The leaves are the outputs, and maybe one value that is also read."""
    made = {name for node in b.scope.nodes for name in node.output}
    pool = [known for known in b.scope.pool if known.name in made]
    leaves = [known for known in pool if known.name not in b.scope.used]
    if len(leaves) < len(pool) and b.flag():
        leaves.append(b.one_of([known for known in pool if known.name in b.scope.used]))
    graph = helper.make_graph(
        b.scope.nodes,
        "drawn",
        [known.info() for known in b.inputs],
        [known.info() for known in leaves],
        b.scope.initializers,
    )
    graph.doc_string = "drawn by onnx_compress.testing"
    for node in (graph.node[0], graph.node[-1]):
        node.doc_string = f"documentation of {node.name}"
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(domain, 1) for domain in sorted(b.domains)]
    version = next(version for since, version in _IR if opset >= since)
    model = helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=version,
        producer_name="onnx_compress.testing",
        doc_string="a random model",
    )
    model.metadata_props.add(key="drawn", value="yes")
    return model
