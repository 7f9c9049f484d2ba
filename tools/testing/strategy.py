"""models(): a Hypothesis strategy of valid ONNX models.

A model grows forward: a value is drawn from those that exist, then a row of the table from those
that fit it, then the numbers of that row. Nothing is filtered, so shrinking gives few nodes and
small sizes.
"""

from collections.abc import Iterable, Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from onnx import ModelProto, helper

from onnx_compress.testing.builder import Builder
from onnx_compress.testing.outline import outlined
from onnx_compress.testing.spec import Spec
from onnx_compress.testing.specs import FAMILIES, SPECS

OPSETS = (13, 21)
_RECENT = 4  # of the newest values are drawn from twice as often
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

    `ops`: only these operators, or blocks (attention, residual, ...) of the table in `specs/`.
    `max_nodes`: steps; a block is one step. `dtypes`: of inputs, "float32", "float16", "float64".
    `opsets`: the oldest and the newest operator set, from 11 on. `subgraphs`: If and Loop.
    `functions`: some nodes are put into functions of the model. `dynamic`: the first axis of the
    inputs may be open, called N.

    Raises ValueError where no row of the table is left.
    """
    wanted = None if ops is None else set(ops)
    low, high = opsets
    versions = range(low, high + 1)

    def usable(spec: Spec) -> bool:
        named = wanted is None or spec.name in wanted or set(spec.operators) <= wanted
        allowed = any(spec.allowed(version) for version in versions)
        return named and allowed and (subgraphs or not spec.body)

    rows = tuple(found for family in FAMILIES if (found := tuple(filter(usable, family))))
    if not rows:
        raise ValueError(f"no operator of {sorted(wanted or ())} in operator sets {low} to {high}")
    if low < 11:
        raise ValueError("operator sets before 11 are not drawn")
    return _models(rows, max_nodes, tuple(dtypes), low, high, functions, dynamic)


@st.composite
def _models(
    draw: DrawFn,
    families: tuple[tuple[Spec, ...], ...],
    max_nodes: int,
    dtypes: tuple[str, ...],
    low: int,
    high: int,
    functions: bool,
    dynamic: bool,
) -> ModelProto:
    opset = high - draw(st.integers(0, high - low))
    dtype = dtypes[draw(st.integers(0, len(dtypes) - 1))]
    table = [[spec for spec in family if spec.allowed(opset)] for family in families]
    b = Builder(draw, opset, draw(st.integers(0, 2**16)))
    steps = b.integer(1, max_nodes)
    usable = [spec for family in table for spec in family]
    b.start(lambda known: any(spec.takes(known) for spec in usable), dtype, dynamic)
    for _ in range(steps):
        for x in b.recent(_RECENT):
            fitting = [rows for family in table if (rows := [s for s in family if s.takes(x)])]
            if fitting:
                b.one_of(b.one_of(fitting)).add(b, x)
                break
    model = _finished(b, opset)
    return outlined(model, b.flag()) if functions else model


def _finished(b: Builder, opset: int) -> ModelProto:
    """The leaves are the outputs."""
    made = {name for node in b.scope.nodes for name in node.output}
    leaves = [k for k in b.scope.pool if k.name in made and k.name not in b.scope.used]
    graph = helper.make_graph(
        b.scope.nodes,
        "drawn",
        [known.info() for known in b.inputs],
        [known.info() for known in leaves],
        b.initializers,
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
