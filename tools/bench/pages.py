"""The generated parts of docs/: a page for each pass, the table of the report.

python -m onnx_compress.bench.pages docs
"""

import argparse
import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from onnx_compress.passes import registry
from onnx_compress.passes.describe import describe

START, END = "<!-- generated: python -m onnx_compress.bench.pages docs -->", "<!-- end -->"


def pages() -> dict[str, str]:
    """Path under docs -> the generated part of that page."""
    found = {f"passes/{name}.md": _pass(name) for name in registry.names()}
    schemas = {"report.md": "report", "verify.md": "verification"}
    return found | {page: _report(name) for page, name in schemas.items()}


def filled(page: str, part: str) -> str:
    """A page with its generated part replaced, or put at the end where there is none."""
    before, _, rest = page.partition(START)
    after = rest.partition(END)[2]
    return f"{before.rstrip()}\n\n{START}\n\n{part}\n\n{END}{after or chr(10)}".lstrip()


def _pass(name: str) -> str:
    found = describe(name)
    head, _, rest = found.text.partition("\n")
    lines = [f"# {head.rstrip('.')}", "", "```text", rest.strip("\n"), "```", ""]
    kind = "exact: outputs change by rounding alone" if found.exact else "lossy"
    lines += [f"Phase: {found.phase}; {kind}.", ""]
    if found.options:
        lines += ["| option | values | default | meaning |", "| --- | --- | --- | --- |"]
        lines += [f"| `{o.name}` | {o.kind} | {o.default} | {o.help} |" for o in found.options]
    else:
        lines.append("It has no options.")
    command = f"onnx-compress in.onnx out.onnx --calib data.npz --passes '{found.example}'"
    return "\n".join([*lines, "", f"    {command}"])


def _report(name: str) -> str:
    file = resources.files("onnx_compress").joinpath(f"{name}.schema.json")
    text = file.read_text("utf-8")
    rows = [f"| `{path}` | {kind} | {meaning} |" for path, kind, meaning in _rows(json.loads(text))]
    return "\n".join(["| field | type | meaning |", "| --- | --- | --- |", *rows])


def _rows(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    for name, found in schema.get("properties", {}).items():
        place = f"{path}{name}"
        yield place, _kind(found), found.get("description", "")
        inner = found.get("items", found)
        yield from _rows(inner, place + ("[]." if "items" in found else "."))


def _kind(found: dict[str, Any]) -> str:
    if "enum" in found:
        return " or ".join(found["enum"])
    kind = found.get("type", found.get("const", ""))
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("docs", type=Path)
    docs = parser.parse_args().docs
    for name, part in pages().items():
        path = docs / name
        path.parent.mkdir(exist_ok=True)
        page = path.read_text("utf-8") if path.exists() else ""
        path.write_text(filled(page, part), "utf-8")


if __name__ == "__main__":
    main()
