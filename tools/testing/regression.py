"""A test that repeats a failure, ready to be pasted into a file."""

import base64
import re
import sys
import textwrap
import zlib

import onnx
from onnx import ModelProto

from onnx_compress.passes import Pass
from onnx_compress.testing.trial import PassLike, called

_LONGEST = 6000  # characters of a model's text
_NUMBERS = re.compile(r"\{[^{}<>\n]{80,}\}")  # of one tensor


def regression(pass_: PassLike, model: ModelProto) -> str:
    """The model as text, and a test of a pass on it."""
    text = as_text(model)
    shown = text if len(text) <= _LONGEST else _shortened(text)
    imports = ["import onnx", "from onnx import ModelProto", *_imported(pass_)]
    imports.append("from onnx_compress.testing import check_pass")
    documented = _documented(model)
    if len(text) <= _LONGEST and _reads_back(text, documented, model):
        made = "\n".join([f'    model = onnx.parser.parse_model("""{text}""")', *documented])
    else:
        imports += ["import base64", "import zlib"]
        packed = base64.b85encode(zlib.compress(model.SerializeToString(), 9)).decode()
        made = f"    data = zlib.decompress(base64.b85decode({packed!r}))\n"
        made += "    model = ModelProto.FromString(data)"
    lines = [*sorted(imports, key=lambda line: (not line.startswith("import"), line)), "", ""]
    lines += ["def test_regression():", made, f"    check_pass({called(pass_)}, model)"]
    return f"The model:\n\n{shown}\n\nA test:\n\n" + "\n".join(lines)


def _shortened(text: str) -> str:
    """Without most numbers of large tensors, so that the nodes are seen."""
    text = _NUMBERS.sub("{...}", text)
    cut = "\n..." if len(text) > _LONGEST else ""
    return f"{text[:_LONGEST]}{cut}\n(whole in the test)"


def _imported(pass_: PassLike) -> list[str]:
    """How the test gets at the pass; nothing for functions that no module has under their name."""
    made = type(pass_) if isinstance(pass_, Pass) else pass_
    module, name = getattr(made, "__module__", ""), getattr(made, "__qualname__", "")
    if getattr(sys.modules.get(module), name, None) is not made:
        return []
    return [f"from {module} import {name}"]


def as_text(model: ModelProto) -> str:
    """In the syntax of onnx.parser."""
    return str(onnx.printer.to_text(model))


def _documented(model: ModelProto) -> list[str]:
    """Lines that give the graph and its nodes their documentation, which the text has not."""
    places = {"graph": model.graph.doc_string}
    places |= {f"graph.node[{at}]": node.doc_string for at, node in enumerate(model.graph.node)}
    return [f"    model.{at}.doc_string = {said!r}" for at, said in places.items() if said]


def _reads_back(text: str, documented: list[str], model: ModelProto) -> bool:
    if '"""' in text or "\\" in text:
        return False
    try:
        found = onnx.parser.parse_model(text)
    except Exception:  # it raises whatever its C++ raises
        return False
    exec(textwrap.dedent("\n".join(documented)), {"model": found})
    same = found.graph.node == model.graph.node and found.functions == model.functions
    return bool(same and _same_numbers(found, model))


def _same_numbers(one: ModelProto, other: ModelProto) -> bool:
    from onnx import numpy_helper

    pairs = zip(one.graph.initializer, other.graph.initializer, strict=False)
    return len(one.graph.initializer) == len(other.graph.initializer) and all(
        a.name == b.name and (numpy_helper.to_array(a) == numpy_helper.to_array(b)).all()
        for a, b in pairs
    )
