"""check_pass(): everything that a pass must hold to, on one model."""

from collections.abc import Sequence

from onnx import ModelProto

from onnx_compress.testing.checks import CHECKS, Failed, outputs_kept
from onnx_compress.testing.feeds import Feed, feed_of
from onnx_compress.testing.regression import regression
from onnx_compress.testing.trial import PassLike, Trial, tried


def check_pass(
    pass_: PassLike,
    model: ModelProto,
    feeds: Sequence[Feed] | None = None,
    tolerance: float | None = None,
    skip: Sequence[str] = (),
) -> Trial:
    """Run a pass on a model, and check the result and the pass.

    `pass_`: a Pass, or a function that takes and gives a ModelProto, which is taken for exact.
    `feeds`: inputs to fit to and to compare outputs on; by default three, normal numbers with open
    dimensions of 1 and of 3, and zeros. `tolerance`: relative error of weights whose effect on the
    outputs is allowed; by default rounding for exact passes, and what the pass declares as
    `weight_error` (else 0.02) for lossy ones. `skip`: names of CHECKS to leave out.

    Raises Failed, with the model as text and a regression test, where a check does not hold, and
    whatever the pass raises.
    """
    given = list(feeds) if feeds is not None else _usual(model)
    untouched = ModelProto.FromString(model.SerializeToString())
    try:
        trial = tried(pass_, model, given)
        for name, check in CHECKS.items():
            if name in skip:
                continue
            if name == "outputs_kept":
                outputs_kept(trial, given, tolerance)
            else:
                check(trial, given)
    except Failed as failed:
        raise Failed(failed.check, f"{failed.what}\n\n{regression(pass_, untouched)}") from None
    except Exception as error:
        error.add_note(regression(pass_, untouched))
        raise
    return trial


def _usual(model: ModelProto) -> list[Feed]:
    from onnx_compress.ir.graph import from_proto

    found = from_proto(model)
    kinds = (("normal", 1), ("normal", 3), ("zeros", 1))
    return [feed_of(found, kind, size, size) for kind, size in kinds]
