"""Passes of other packages that are broken are refused by name, and hide no other."""

import pytest

from onnx_compress.cli import main

from models_by_text import error, left
from plugin_sites import (
    FEED,
    RUN,
    SOURCE,
    folder_with_a_model,  # noqa: F401
    installed,  # noqa: F401
    made,
    refused,
    stages,
)

HEAD = '''
"""odd: what it does."""
from dataclasses import dataclass
from typing import ClassVar
import numpy as np
from onnx_compress.passes import Entry, Pass, Phase, Report, option
DONE = Report((Entry("W", "changed"),), summary="done")

@dataclass(frozen=True)
class Odd(Pass):
    name: ClassVar[str] = "odd"
    exact: ClassVar[bool] = EXACT
    phase: ClassVar[Phase] = Phase.FACTOR

    def run(self, model, context):
        first, second = [node for node in model.nodes() if node.op == "MatMul"]
        w, v = model.graph.initializers
        BODY
'''

BREAKING = {
    "raises": "raise RuntimeError('two\\nlines')",
    "gives no report": "model.set_constant(w, model.constant(w) * 2)",
    "drops a node": "del model.graph.nodes[first]; return DONE",
    "makes a cycle": "model.set_input(first, 0, second.output); return DONE",
    "another width": "model.set_input(second, 1, model.add_constant(model.graph, "
    "np.ones((7, 80), 'f'), 'k')); return DONE",
    "an unknown operator": "model.set_input(second, 0, model.add_node(model.graph, 'Nothing', "
    "[first.output])); return DONE",
    "no output": "model.graph.outputs.clear(); return DONE",
    "another output": "model.rename(model.graph.outputs[0][0], 'z'); return DONE",
    "NaN": "model.set_constant(w, model.constant(w) * np.float32('nan')); return DONE",
    "a failing import": "import nothing_of_this_name",
}


def odd(body: str, exact: bool = False) -> str:
    return HEAD.replace("BODY", body).replace("EXACT", str(exact))


@pytest.mark.parametrize("name", BREAKING)
def test_a_plugin_that_breaks_the_model_is_refused_by_name(site, place, capsys, name):
    site.add("odd_one", odd(BREAKING[name]), odd="odd_one:Odd")
    assert "odd" in refused(capsys, 4, *RUN, "odd,quant(bits=8)").splitlines()[0]
    assert left(place) == {"in.onnx", "data.npz"}


@pytest.mark.parametrize("name", BREAKING)
def test_with_keep_going_it_is_left_out(site, place, capsys, name):
    site.add("odd_one", odd(BREAKING[name]), odd="odd_one:Odd")
    assert main([*RUN, "odd,quant(bits=8)", "--keep-going", "--report", "report.json"]) == 0
    assert capsys.readouterr().err == ""
    failed = {name: bool(failure) for name, failure in stages(place).items()}
    assert failed == {"fold": False, "odd": True, "quant(bits=8)": False}
    assert error(SOURCE, made(place), FEED) < 0.1


def test_a_plugin_that_says_it_is_exact_must_be(site, place, capsys):
    body = "model.set_constant(w, model.constant(w) * np.float32(1.5)); return DONE"
    site.add("odd_one", odd(body, exact=True), odd="odd_one:Odd")
    assert "odd" in refused(capsys, 4, *RUN, "odd")
    assert left(place) == {"in.onnx", "data.npz"}


# what is in the module -> the entry point
UNLOADABLE = {
    "import": ("import nothing_of_this_name", "odd_one:Odd"),
    "syntax": ("def :", "odd_one:Odd"),
    "name": ("Odd = nothing", "odd_one:Odd"),
    "own error": ("raise ValueError('two\\nlines')", "odd_one:Odd"),
    "no such name": ("", "odd_one:Odd"),
    "no such module": ("", "other_one:Odd"),
    "no pass": ("Odd = 5", "odd_one:Odd"),
    "no phase": (odd("return Report()").replace("phase:", "other:"), "odd_one:Odd"),
    "no name": (odd("return Report()").replace("name:", "other:"), "odd_one:Odd"),
    "an option without default": (
        odd("return Report()").replace("    exact:", "    must: int\n    exact:"),
        "odd_one:Odd",
    ),
}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_a_plugin_that_cannot_be_loaded_is_refused_where_it_is_asked_for(site, place, capsys, name):
    text, point = UNLOADABLE[name]
    site.add("odd_one", text, odd=point)
    assert "odd" in refused(capsys, 2, *RUN, "odd")
    if name != "an option without default":
        assert "odd" in refused(capsys, 2, "passes", "odd")
    assert left(place) == {"in.onnx", "data.npz"}


@pytest.mark.parametrize("name", UNLOADABLE)
def test_a_plugin_that_cannot_be_loaded_hides_no_other(site, place, capsys, name):
    """Who does not ask for it runs and lists what there is."""
    text, point = UNLOADABLE[name]
    site.add("odd_one", text, odd=point)
    assert main([*RUN, "prune(sparsity=0.1),quant(bits=8)"]) == 0
    assert main(["passes"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line}
    assert listed >= {"fold", "prune", "quant"}


@pytest.mark.parametrize("name", ["odd", "quant"])
def test_two_plugins_of_one_name_are_refused_with_both(site, place, capsys, name):
    for module in ("odd_one", "odd_two"):
        site.add(module, odd("return Report()"), **{name: f"{module}:Odd"})
    told = refused(capsys, 2, *RUN, name)
    assert repr(name) in told
    assert "odd_one:Odd" in told or "odd_two:Odd" in told


def test_two_plugins_of_one_name_hide_no_other(site, place):
    for module in ("odd_one", "odd_two"):
        site.add(module, odd("return Report()"), odd=f"{module}:Odd")
    assert main([*RUN, "quant(bits=8)"]) == 0


def test_a_plugin_is_listed_by_the_name_that_it_is_run_by(site, place, capsys):
    site.add("odd_one", odd("return Report()"), strange="odd_one:Odd")
    assert main(["passes"]) == 0
    assert "strange" in capsys.readouterr().out
    assert main([*RUN, "strange"]) == 0
