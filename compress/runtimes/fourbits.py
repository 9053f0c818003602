"""What OpenVINO does with products of 4-bit weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import openvino

from compress.runtimes.base import Inspection

TYPES = ("u4", "i4")  # of such weights, and what their kernels give as their dtype
BETWEEN = frozenset({"Convert", "Subtract", "Multiply", "Transpose", "Reshape", "Slice", "StridedSlice"})
IN_FLOAT = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}  # setting: the inputs of these products are not rounded to int8


def list_products(model: openvino.Model) -> dict[str, list[str]]:
    """The products whose second operand is made of 4-bit integers: name -> it, and the names of what follows it alone.

    A kernel that does more than the product (adds a bias, say) may be listed under the last name only.
    """
    matrix_products = [node for node in model.get_ops() if node.get_type_name() == "MatMul"]
    return {node.get_friendly_name(): _list_followers(node) for node in matrix_products if _has_four_bits(node)}


def inspect(
    names: Mapping[str, Sequence[str]],
    kernels: Sequence[Mapping[str, str]],
    macs: Callable[[], Mapping[str, int]],
    rounds: Callable[[], bool],
) -> Inspection:
    """What the kernels did.

    Args:
        names: of the products of 4-bit weights, as `list_products` gives them.
        kernels: what OpenVINO says of each.
        macs: multiply-accumulates of each product of the graph.
        rounds: whether OpenVINO rounds inputs of these products to int8; it does not list that.
    """
    dtypes = {
        name: kernel["runtimePrecision"] for kernel in kernels for name in kernel["originalLayersNames"].split(",")
    }
    ran = [name for name, all_names in names.items() if _find_first(all_names, dtypes) in TYPES]
    left = f"{len(names) - len(ran)} of {len(names)} products of 4-bit weights run in float, "
    notes = (left + "as those do whose inputs fill no whole groups",) if len(ran) < len(names) else ()
    if not ran:
        return Inspection("int4-simulated", 0.0, notes)
    if not rounds():
        return Inspection("int4", notes=("weights of 4 bits, activations in float", *notes))
    counted = macs()
    share = sum(counted[name] for name in ran) / sum(counted.values())
    return Inspection("int4", share, ("weights of 4 bits, activations rounded to int8 on their way in", *notes))


def _has_four_bits(product: openvino.Node) -> bool:
    weight = product.input_value(1).get_node()
    while weight.get_type_name() in BETWEEN:
        weight = weight.input_value(0).get_node()
    return weight.get_output_element_type(0).to_string() in TYPES


def _list_followers(product: openvino.Node) -> list[str]:
    names, node = [product.get_friendly_name()], product
    while len(node.output(0).get_target_inputs()) == 1:
        (behind,) = node.output(0).get_target_inputs()
        node = behind.get_node()
        if node.get_type_name() == "MatMul" or node.get_output_size() != 1:
            break
        names.append(node.get_friendly_name())
    return names


def _find_first(names: Sequence[str], dtypes: Mapping[str, str]) -> str | None:
    return next((dtypes[name] for name in names if name in dtypes), None)
