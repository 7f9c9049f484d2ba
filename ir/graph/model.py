"""Model: a graph that can be edited without breaking it.

All edits go through the verbs of this class. Each takes time in proportion to the number of uses
it touches, keeps use-def lists and captures right, and refuses what would break the model: a name
that is taken, a changed interface, a changed element type.
"""

from collections.abc import Callable, Iterable
from typing import Any

from onnx import NodeProto, TensorShapeProto, ValueInfoProto, helper

from onnx_compress.ir.errors import InvalidError
from onnx_compress.ir.graph import elements, tensors
from onnx_compress.ir.graph.build import add_exit, add_use, drop_exit, drop_use
from onnx_compress.ir.graph.document import DEFAULT_DOMAINS, Document
from onnx_compress.ir.graph.elements import Array, Tensor
from onnx_compress.ir.graph.messages import without
from onnx_compress.ir.graph.view import Graph, Node, Value


class Model(Document):
    """A document with the verbs that edit it."""

    # --------------------------------------------------------------------------------- names

    def fresh(self, stem: str) -> str:
        """A new name that starts with `stem`, kept for whoever asked."""
        name = self._claim(stem)
        self._reserved.add(name)
        return name

    def _claim(self, stem: str) -> str:
        number, name = self._fresh.get(stem, 0), stem
        while name in self.names:
            number += 1
            name = f"{stem}_{number}"
        self._fresh[stem] = number
        self.names.add(name)
        return name

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name. Raises InvalidError: taken, or part of the interface."""
        if not name:
            raise InvalidError("an empty name means no value", where=value.name)
        if name in self.names and name not in self._reserved:
            raise InvalidError(f"the name {name!r} is taken", where=value.name)
        if value.graph is self.graph and (value.is_input or self.graph in value.exits):
            raise InvalidError("its name is part of the interface", where=value.name)
        if self.shell.training_info:
            raise InvalidError("training_info may refer to it by name", where=value.name)
        self._set_name(value, name)

    def take_name(self, value: Value, old: Value) -> None:
        """Give a value the name of one that it replaces. Raises InvalidError.

        One that is no longer in the model keeps it: reports still call it so.
        """
        for one in (value, old):
            if one.graph is self.graph and (one.is_input or self.graph in one.exits):
                raise InvalidError("its name is part of the interface", where=one.name)
        if self.shell.training_info:
            raise InvalidError("training_info may refer to it by name", where=old.name)
        name = old.name
        if old.alive:
            self._set_name(old, self._claim(f"{name}_old"))
        self._set_name(value, name)

    def _set_name(self, value: Value, name: str) -> None:
        self.edits += 1
        self.names.add(name)
        self._reserved.discard(name)
        value.name = name
        for node, _ in value.uses:
            node.renamed = True
        if value.producer is not None:
            value.producer.renamed = True

    # --------------------------------------------------------------------------------- edges

    def set_input(self, node: Node, slot: int, value: Value | None) -> None:
        """Let a node read another value in one slot."""
        old = node.inputs[slot]
        if old is value:
            return
        if value is not None and not value.graph.encloses(node.graph):
            raise InvalidError(f"{value.name!r} cannot be seen there", where=node.name)
        if old is not None:
            drop_use(old, node, slot)
        node.inputs[slot] = value
        node.renamed = True
        self.edits += 1
        if value is not None:
            add_use(value, node, slot)

    def replace_uses(
        self, old: Value, new: Value, only: Callable[[Node], bool] | None = None
    ) -> None:
        """Let everything that reads `old` read `new`; with `only`, just the nodes it accepts.

        A graph that gave `old` out gives `new` out (not with `only`). In the main graph `new`
        takes over the name, or an Identity of that name is put behind it where it cannot.
        """
        if old is new:
            return
        moved = [(node, slot) for node, slot in old.uses if only is None or only(node)]
        for node, _ in moved:  # all or nothing
            if not new.graph.encloses(node.graph):
                raise InvalidError(f"{new.name!r} cannot be seen there", where=node.name)
        if only is None and self.graph in old.exits and old.is_input:
            raise InvalidError("it is an input that is given out", where=old.name)
        for node, slot in moved:
            self.set_input(node, slot, new)
        if only is None:
            for graph in list(old.exits):
                self._replace_exit(graph, old, new)

    def insert_behind(self, value: Value, new: Value) -> None:
        """Let a node whose output is `new` read `value` first, and all else `new` in its place."""
        self.replace_uses(value, new)
        if new.producer is not None:
            self.set_input(new.producer, 0, value)

    def _replace_exit(self, graph: Graph, old: Value, new: Value) -> None:
        named = graph is self.graph
        local = new.graph is graph and new.producer is not None
        # a body may have an input of the name that `new` would take, and then not see `new`
        hidden = named and any(node.graph is not graph for node, _ in new.uses)
        if not local or hidden or graph in new.exits:
            new = self.add_node(graph, "Identity", [new])
        if named:
            name = old.name
            self._set_name(old, self._claim(f"{name}_old"))
            self._set_name(new, name)
        for position, (value, info) in enumerate(graph.outputs):
            if value is old:
                graph.outputs[position] = new, info
                drop_exit(old, graph)
                add_exit(new, graph)
                self.edits += 1

    # --------------------------------------------------------------------- nodes and constants

    def add_node(
        self,
        graph: Graph,
        op: str,
        inputs: Iterable[Value | None],
        *,
        domain: str = "",
        name: str = "",
        stem: str = "",
        like: Node | None = None,
        **attributes: Any,
    ) -> Value:
        """Add a node with one output, which is returned.

        It may be added before or after anything: order is made at export. `stem` starts the name
        of the output. The new node takes documentation and metadata over from `like`.
        """
        proto = NodeProto(op_type=op)
        if domain:
            proto.domain = domain
        if name:
            proto.name = name
        # sorted: equal calls must give equal bytes
        for key in sorted(attributes):
            if attributes[key] is not None:
                proto.attribute.append(helper.make_attribute(key, attributes[key]))
        if like is not None:
            if like.proto.HasField("doc_string"):
                proto.doc_string = like.proto.doc_string
            proto.metadata_props.extend(like.proto.metadata_props)
        sources = list(inputs)
        for value in sources:
            if value is not None and not value.graph.encloses(graph):
                raise InvalidError(f"{value.name!r} cannot be seen there", where=op)
        node = Node(proto, graph)
        node.renamed = True
        graph.nodes[node] = None
        self.edits += 1
        for slot, value in enumerate(sources):
            node.inputs.append(value)
            if value is not None:
                add_use(value, node, slot)
        self.add_output(node, stem or f"{name or op}_out")
        return node.output

    def add_output(self, node: Node, stem: str) -> Value:
        """One more output of a node; its name starts with `stem`."""
        out = Value(self._claim(stem), node.graph)
        out.producer = node
        node.outputs.append(out)
        node.renamed = True
        self.edits += 1
        return out

    def add_constant(
        self, graph: Graph, array: Array, name: str, like: Tensor | None = None
    ) -> Value:
        """Add an initializer; large ones go to scratch. Documentation comes from `like`."""
        self.raise_ir_version(4)
        value = Value(self._claim(name), graph)
        value.tensor = tensors.from_array(array, self.storage, like)
        graph.initializers[value] = None
        self.edits += 1
        return value

    def set_constant(self, value: Value, array: Array) -> None:
        """Replace the numbers of a constant, wherever it is kept, by others of the same type.

        Raises InvalidError if the element type differs, or if the value is no constant.
        """
        old = self.tensor(value)
        if old is None:
            raise InvalidError("it is no constant", where=value.name)
        have, want = elements.element_of(array.dtype), elements.element_type(old)
        if have != want:
            names = elements.type_name(have), elements.type_name(want)
            raise InvalidError(f"{names[0]} given where {names[1]} was", where=value.name)
        new = tensors.from_array(array, self.storage, old)
        if value.tensor is not None:
            value.tensor = new
            if value.is_input and tuple(array.shape) != elements.dims(old):
                self._declare(value, array.shape)
        elif value.producer is not None:
            for other in list(value.producer.proto.attribute):  # value_float, sparse_value, ...
                self.set_attribute(value.producer, other.name, None)
            self.set_attribute(value.producer, "value", new)
        self.edits += 1

    def _declare(self, value: Value, shape: Iterable[int]) -> None:
        """Format 3 lists stored tensors as inputs, with their shapes."""
        for at, (listed, known) in enumerate(self.graph.inputs):
            info = known or listed.info
            if listed is value and info is not None:
                new = _unshaped(info)
                new.type.tensor_type.shape.dim.extend(
                    TensorShapeProto.Dimension(dim_value=n) for n in shape
                )
                value.info, self.graph.inputs[at] = new, (value, new)

    def set_attribute(self, node: Node, name: str, value: Any) -> None:
        """Set, replace or (None) remove an attribute of a node."""
        if any(name == body for body, _ in node.bodies):
            raise InvalidError(f"the attribute {name} is a graph", where=node.name)
        proto = without(node.proto, {"attribute"})
        proto.attribute.extend(a for a in node.proto.attribute if a.name != name)
        if value is not None:
            proto.attribute.append(helper.make_attribute(name, value))
        node.proto = proto
        self.edits += 1

    def set_operator(self, node: Node, op: str) -> None:
        """Let a node be another operator of the same domain, with the attributes that it has."""
        proto = without(node.proto, {"op_type"})
        proto.op_type = op
        node.proto = proto
        self.edits += 1

    def drop_outputs(self, node: Node, kept: int) -> None:
        """Leave out all outputs after the first `kept`. Raises InvalidError if one is used."""
        for value in node.outputs[kept:]:
            if value is not None and value.is_used:
                raise InvalidError(f"{value.name!r} is still used", where=node.name)
        for value in node.outputs[kept:]:
            if value is not None:
                value.alive, value.producer = False, None
        del node.outputs[kept:]
        node.renamed = True
        self.edits += 1

    def remove(self, node: Node) -> None:
        """Take a node out, with its bodies. Raises InvalidError while its outputs are used."""
        for value in node.outputs:
            if value is not None and value.is_used:
                raise InvalidError(f"{value.name!r} is still used", where=node.name)
        self._detach(node)

    def _detach(self, node: Node) -> None:
        self.edits += 1
        for _, body in node.bodies:
            for value, _ in body.outputs:
                drop_exit(value, body)
            for inner in list(body.nodes):
                self._detach(inner)
        for slot, read in enumerate(node.inputs):
            if read is not None:
                drop_use(read, node, slot)
        for made in node.outputs:
            if made is not None:
                made.alive, made.producer = False, None
        del node.graph.nodes[node]

    def remove_initializer(self, value: Value) -> None:
        """Take an initializer out. Raises InvalidError while it is used."""
        if value.is_used:
            raise InvalidError("it is still used", where=value.name)
        del value.graph.initializers[value]
        value.tensor = None
        if value.is_input and self.listed:
            value.is_input = False
            value.graph.inputs = [entry for entry in value.graph.inputs if entry[0] is not value]
        if not value.is_input:
            value.alive = False
        self.edits += 1

    def forget_shapes(self, values: Iterable[Value]) -> None:
        """Leave out what the file declares of the shapes of inner values, which have changed."""
        changed = set(values)
        for value in changed:
            if value.info is not None and not value.is_input:
                # written where a probe gives the value out
                value.info = _unshaped(value.info)
        for graph in self.graphs():
            graph.value_info = [entry for entry in graph.value_info if entry[0] not in changed]
            if graph is self.graph:
                continue
            for at, (value, info) in enumerate(graph.outputs):
                if value in changed and info is not None:
                    graph.outputs[at] = value, _unshaped(info)
        self.edits += 1

    # ----------------------------------------------------------------------------- everything

    def become(self, other: "Model") -> None:
        """Take over everything of another model, which is left with what this one had.

        They exchange all they have, so no value, node or graph is ever part of two models.
        """
        if other is self:
            return
        edits = max(self.edits, other.edits) + 1
        self.__dict__, other.__dict__ = other.__dict__, self.__dict__
        self.edits = edits

    # ---------------------------------------------------------------------------- the envelope

    def raise_ir_version(self, version: int) -> None:
        """Raise the version of the file format to at least `version`."""
        if self.ir_version >= version:
            return
        self.shell.ir_version, before = version, self.ir_version
        if before < 4:
            self.unlist()
        self.edits += 1

    def unlist(self) -> list[Value]:
        """Weights are inputs no more, where they are just listed so; those that were.

        Nothing happens below IR 4, where all have to be: from there on it means overridable.
        """
        if not self.listed or self.ir_version < 4:
            return []
        found = []
        for graph in self.graphs():
            found += [value for value, _ in graph.inputs if value.tensor is not None]
            graph.inputs = [entry for entry in graph.inputs if entry[0].tensor is None]
        for value in found:
            value.is_input = False
        self.listed = False
        self.edits += 1
        return found

    def set_metadata(self, key: str, value: str | None) -> None:
        """Set, replace or (None) remove one of the model's metadata_props."""
        props = self.shell.metadata_props
        place = next((at for at, entry in enumerate(props) if entry.key == key), None)
        if value is None:
            if place is not None:
                del props[place]
        elif place is None:
            props.add(key=key, value=value)
        else:
            props[place].value = value
        self.edits += 1

    def set_opset(self, domain: str, version: int) -> None:
        """Import an operator set in this version. Nodes are not rewritten: see `opset.raise_to`."""
        for entry in self.shell.opset_import:
            if entry.domain == domain or {entry.domain, domain} <= set(DEFAULT_DOMAINS):
                entry.version = version
                break
        else:
            self.shell.opset_import.add(domain=domain, version=version)
        self.edits += 1


def _unshaped(info: ValueInfoProto) -> ValueInfoProto:
    kept = ValueInfoProto()
    kept.CopyFrom(info)
    if kept.type.HasField("tensor_type"):  # an empty one made here would be of no type
        kept.type.tensor_type.ClearField("shape")
    return kept
