"""Mutations: the same model, written differently. A pass must do the same to it.

Each takes a ModelProto and a random generator and gives a new ModelProto that computes the same, or
None where there is nothing in it to write differently. `saved_externally` is one more, of files.
"""

from onnx_compress.testing.mutations.base import Mutation
from onnx_compress.testing.mutations.files import saved_externally
from onnx_compress.testing.mutations.names import rename_all, unicode_names
from onnx_compress.testing.mutations.nodes import (
    custom_domain_node,
    dead_nodes,
    identity_inserted,
    reorder_nodes,
)
from onnx_compress.testing.mutations.products import gemm_split, transposed_product
from onnx_compress.testing.mutations.scopes import captured_by_branch, outlined_into_function
from onnx_compress.testing.mutations.versions import other_opset
from onnx_compress.testing.mutations.weights import (
    as_constant_nodes,
    as_inputs,
    behind_cast,
    behind_identity,
    behind_transpose,
    shared,
    tied,
)

__all__ = ["MUTATIONS", "Mutation", "saved_externally"]

MUTATIONS: dict[str, Mutation] = {
    function.__name__: function
    for function in (
        rename_all,
        unicode_names,
        reorder_nodes,
        identity_inserted,
        dead_nodes,
        custom_domain_node,
        as_constant_nodes,
        as_inputs,
        behind_identity,
        behind_transpose,
        behind_cast,
        shared,
        tied,
        gemm_split,
        transposed_product,
        captured_by_branch,
        outlined_into_function,
        other_opset,
    )
}
