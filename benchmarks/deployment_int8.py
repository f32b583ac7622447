"""int8 with one kind of weight left in float32 at a time: what each costs in WER and gives in speed.

The answer to "which layers to leave out" where int8 costs too much.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployment_systems import OUR_RUNTIME, System, student
from mvqkd.data.tokens import TOKENS_FILE
from mvqkd.decode.onnx_graphs import graph_file
from mvqkd.export.quantize import quantize_matmuls


def ablations(bundle: Path, facts: dict[str, Any], work: Path) -> Iterator[System]:
    """The offline int8 transducer with each size of its encoder's weights in float32."""
    import onnx

    offline = facts["variants"]["offline"]
    model = onnx.load(bundle / graph_file("encoder"))
    for rows, columns in weight_sizes(model):
        name = f"{rows}x{columns}"
        count = leave_out(changed := _copy(model), (rows, columns))
        system = _system(bundle, work / name, facts, offline["int8"], name, f"{count} of {rows} × {columns}")
        onnx.save(quantize_matmuls(changed), work / name / offline["int8"]["encoder"])
        yield system


def weight_sizes(model: Any) -> list[tuple[int, int]]:
    """Sizes of the constant weights of matrix products, in the order of the graph."""
    return list(dict.fromkeys(size for _, size in _products(model)))


def leave_out(model: Any, size: tuple[int, int]) -> int:
    """Make the weights of this size not constant, so that they are not quantised; returns how many.

    onnxruntime removes the Identity when it opens the graph, which leaves it as fast as before.
    """
    import onnx

    chosen = [node for node, found in _products(model) if found == size]
    for number, node in enumerate(chosen):
        position = next(place for place, known in enumerate(model.graph.node) if known is node)
        identity = onnx.helper.make_node("Identity", [node.input[1]], [f"float32_weight_{number}"])
        node.input[1] = identity.output[0]
        model.graph.node.insert(position, identity)
    return len(chosen)


def _system(
    bundle: Path, folder: Path, facts: dict[str, Any], graphs: Mapping[str, str], name: str, left_out: str
) -> System:
    """A bundle in ``folder`` of these graphs alone; the runtime takes float32 where it finds no int8."""
    for file in {TOKENS_FILE, *graphs.values()}:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle / file, folder / file)
    changed = facts | {"variants": {"offline": {"int8": dict(graphs)}}}
    system = student(folder, changed, "offline", "int8", OUR_RUNTIME)
    return replace(system, name=f"{system.name}-{name}", left_out=left_out)


def _products(model: Any) -> list[tuple[Any, tuple[int, int]]]:
    sizes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    products = [(node, sizes.get(node.input[1], ())) for node in model.graph.node if node.op_type == "MatMul"]
    return [(node, (size[0], size[1])) for node, size in products if len(size) == 2]


def _copy(model: Any) -> Any:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied
