"""What a user should know about a run besides its figures: the warnings."""

from onnx_compress.ir.graph import Model, digests
from onnx_compress.ir.runtime import fits
from onnx_compress.passes import Context, Outcome, Pipeline
from onnx_compress.passes.verify import Reference, Unverified
from onnx_compress.result import Score, Summary


def about_the_input(model: Model, reference: Reference) -> list[str]:
    """Outputs that cannot be judged, weights that were touched."""
    found = []
    if isinstance(reference, Unverified):
        found.append("not verified: only loaded, neither run nor compared")
    else:
        found += [
            f"the output {name} {why}: not judged" for name, why in reference.unjudged.items()
        ]
    touched = [name or "a small one" for name in digests.changed(model)]
    if touched:
        others = f" and {len(touched) - 1} more" if len(touched) > 1 else ""
        found.append(f"weights were changed after this tool wrote them: {touched[0]}{others}")
    if not fits(model):
        found.append("run in pieces, which --memory bounds: its speed was not measured")
    if reference.drawn:
        how = "tried" if isinstance(reference, Unverified) else "judged"
        found.append(f"no data given: {how} on drawn inputs; give real ones with --calib")
    return found


def about_the_names(context: Context) -> list[str]:
    """Patterns that no pass met a weight for."""
    return [
        f"--exclude {pattern} matches no weight"
        for pattern in context.exclude
        if pattern not in context.matched
    ]


def about_the_passes(outcome: Outcome) -> list[str]:
    """Those that failed and were left out."""
    return [
        f"{stage.name} failed and was left out: {stage.failure}"
        for stage in outcome.stages
        if stage.failure
    ]


def about_the_inputs(before: Model, after: Model) -> list[str]:
    """Weights that were inputs, too."""
    listed = [value for value, _ in before.graph.inputs if value.tensor is not None]
    if not before.listed or before.ir_version < 4 or after.listed or not listed:
        return []
    names = ", ".join(value.name for value in listed[:2])
    more = " and others" if len(listed) > 2 else ""
    return [f"{len(listed)} inputs with a default are constants now: {names}{more}"]


def kept(changed: bool, smaller: bool) -> list[str]:
    """Why the input is the result."""
    larger = "the result was larger than the input, so the input was kept"
    return [larger] if changed and not smaller else []


def about_the_result(summary: Summary, error: float | None, metric: Score | None) -> list[str]:
    """Limits that numbers given were allowed to pass."""
    found = []
    most, drop = summary.max_error, summary.max_drop
    if error is not None and most is not None and error > most:
        found.append(f"the error {error:.3g} is above {most:.3g}: numbers given are obeyed")
    if metric is not None and drop is not None and metric.before - metric.after > drop:
        fell = f"{metric.name} fell by {metric.before - metric.after:.3g}, above {drop:.3g}"
        found.append(f"{fell}: numbers given are obeyed")
    return found


def plan(pipeline: Pipeline) -> list[str]:
    """What a plan does not know."""
    found = ["a plan: nothing was judged, timed or written"]
    free = [str(item) for item in pipeline.passes if not (item.exact or item.obeyed)]
    if free:
        names = ", ".join(free)
        found.append(f"{names}: the strongest setting is shown; a run chooses by the error")
    return found
