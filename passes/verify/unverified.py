"""Where nothing is to be judged: models are loaded, not run."""

from collections.abc import Sequence

from onnx_compress.ir.graph import Model
from onnx_compress.ir.runtime import Feed, Runner, open_session
from onnx_compress.passes.verify.quality import Quality
from onnx_compress.passes.verify.reference import Reference


class Unverified(Reference):
    """A reference that finds no fault with any model that loads."""

    def __init__(self, session: Runner, feeds: Sequence[Feed], drawn: bool) -> None:
        self.feeds, self.drawn, self.threads = feeds, drawn, session.threads
        self.names = [port.name for port in session.outputs]
        self.unjudged = dict.fromkeys(self.names, "was not verified")
        self.metric, self.score = None, None

    def judge(self, model: Model | Runner, score: bool = False) -> Quality:
        """Raises InvalidError if it does not load."""
        if isinstance(model, Model):
            open_session(model, self.threads)
        return Quality(())
