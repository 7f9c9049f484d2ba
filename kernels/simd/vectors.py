"""Vectors in LLVM's terms: loads, broadcasts, and calls of one instruction."""

from typing import Any

from llvmlite import ir

I8, I16, I32, I64, F32 = (
    ir.IntType(8),
    ir.IntType(16),
    ir.IntType(32),
    ir.IntType(64),
    ir.FloatType(),
)


def vector(element: Any, count: int) -> Any:
    """The type <count x element>."""
    return ir.VectorType(element, count)


def fill(kind: Any, value: float) -> Any:
    """A constant vector of one value."""
    return ir.Constant(kind, [value] * kind.count)


def at(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    """A pointer to `kind`, `offset` bytes (a number or a value) after an address."""
    if not isinstance(offset, int):
        address = builder.add(address, offset)
    elif offset:
        address = builder.add(address, I64(offset))
    return builder.inttoptr(address, kind.as_pointer())


def load(builder: Any, address: Any, offset: Any, kind: Any) -> Any:
    """A value of `kind` from any address."""
    value = builder.load(at(builder, address, offset, kind))
    value.align = 1
    return value


def store(builder: Any, value: Any, address: Any, offset: Any) -> None:
    """A value to any address."""
    builder.store(value, at(builder, address, offset, value.type)).align = 1


def prefetch(builder: Any, address: Any, offset: int) -> None:
    """Ask for the line of memory at an address, which may be any."""
    place = at(builder, address, offset, I8)
    module = builder.module
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    function = module.globals.get("llvm.prefetch.p0") or ir.Function(
        module, kind, "llvm.prefetch.p0"
    )
    builder.call(function, [place, I32(0), I32(3), I32(1)])


def broadcast(builder: Any, value: Any, count: int) -> Any:
    """<count x value>."""
    kind = vector(value.type, count)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(vector(I32, count), [0] * count))


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """One of LLVM's intrinsics, of which most are one instruction."""
    module = builder.module
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = module.globals.get(name) or ir.Function(module, kind, name)
    return builder.call(function, arguments)
