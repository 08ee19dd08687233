"""Fabrics: published counts, the equations written out plainly, gates, taps, dead parts, errors."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from fabric_oracle import PlainFabric
from torch import Tensor, nn

import zoo
from zoo import topology
from zoo.layers import KeepAll
from zoo.models.fabric import GATES, PLAIN, UNITS, Fabric, FabricSpec
from zoo.testing import settle_norms

WIDE, DOUBLING = (128,) * 6, (32, 64, 128, 256, 512, 1024)


def fabric(
    type: str,
    columns: int,
    channels: tuple[int, ...],
    unit: str = "conv",
    task: dict[str, Any] | None = None,
    **spec: Any,
) -> Fabric:
    fields = {"stem": "cifar", "type": type, "columns": columns, "channels": channels, "unit": unit} | spec
    return Fabric(FabricSpec(scales=len(channels), **fields), **({"num_classes": 10} | (task or {})))


# Counts. Those of the report are truncated to three decimals there; the integers follow from the specification.

PUBLISHED = {
    "fabric_a_l8_s6_c128_cifar": 18_022_410,
    "fabric_d_l8_s6_c128_cifar": 22_449_930,
    "fabric_d_l8_s6_c32x2_voc": 226_416_437,
    "fabric_a_l9_s6_c128_cifar": 20_367_498,
    "fabric_a_l3_s6_c128_post_cifar": 756_618,
    "fabric_a_l3_s6_c128_post_scaled_cifar": 756_618,
    "fabric_a_l3_s6_c128_post_dropout_cifar": 756_618,
    "fabric_a_l3_s6_c128_post_gated_cifar": 1_455_498,
    "fabric_a_l3_s6_c128_pre_cifar": 752_266,
    "fabric_a_l3_s6_c128_pre_scaled_cifar": 752_266,
    "fabric_a_l3_s6_c128_pre_dropout_cifar": 752_266,
    "fabric_a_l3_s6_c128_pre_gated_cifar": 1_451_146,
    "fabric_a_l9_s6_c128_post_cifar": 2_473_866,
    "fabric_a_l9_s6_c128_pre_cifar": 2_460_298,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name: str) -> None:
    net = zoo.create_model(name, device="meta")
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("count", "type", "columns", "channels", "unit", "spec"),
    [
        (458_230, "a", 16, (64,) * 6, "sparse", {"conv_bias": True}),
        (442_166, "a", 16, (64,) * 6, "sparse", {}),
        (226_369_557, "d", 8, DOUBLING, "conv", {"head": "dense"}),
        (745_866, "a", 3, WIDE, "preshared", {}),
        (1_444_746, "a", 3, WIDE, "preshared", {"gate": "gated"}),
        (2_438_538, "a", 9, WIDE, "preshared", {}),
        (4_756_618, "a", 9, WIDE, "pre", {"gate": "gated"}),
        (752_266, "a", 3, WIDE, "pre_released", {}),
        (2_709_386, "d", 8, WIDE, "pre", {}),
        (45_412_757, "d", 8, DOUBLING, "pre", {"head": "dense"}),
        (12_108_426, "b", 8, WIDE, "conv", {}),
        (18_006_666, "a", 8, WIDE, "conv", {}),
        (22_430_346, "d", 8, WIDE, "conv", {}),
    ],
)
def test_unpublished_counts(
    count: int, type: str, columns: int, channels: tuple[int, ...], unit: str, spec: dict[str, Any]
) -> None:
    task = {"num_classes": 21 if channels == DOUBLING else 10, "device": "meta"}
    net = fabric(type, columns, channels, unit, task, **spec)
    assert sum(p.numel() for p in net.parameters()) == count


def test_the_sparse_row_is_not_what_was_published() -> None:
    entry = zoo.model_entry("fabric_a_l16_s6_c64_sparse_cifar")
    assert entry.params == 458_230
    assert "2 M" in entry.notes
    assert 27 * 16 * 6 * 64 * 3 == 497_664, "the formula of the original paper, three channels a band"


def test_the_dead_part_of_type_d() -> None:
    net = zoo.create_model("fabric_d_l8_s6_c128_cifar", device="meta")
    cells = [
        cell for column in net.columns for scale, cell in column.named_children() if 5 not in column.reach[int(scale)]
    ]
    # Of 19 edges the 3x3 and its bias, of five nodes the norm.
    dead = 19 * (9 * 128**2 + 128) + 5 * 2 * 128
    assert sum(p.numel() for cell in cells for p in cell.parameters()) == dead == 2_805_376
    assert "2,805,376" in zoo.model_entry("fabric_d_l8_s6_c128_cifar").notes


# The equations

VARIANTS = [(unit, gate) for unit in UNITS for gate in (GATES if unit not in PLAIN else ("none",))]
SIZES = ((16, 16), (13, 19), (11, 10))
UPS = ("bilinear", "nearest", "zero")
HEADS = ("classify", "dense", "hypercolumn")


# Units and gates know no type of grid: the usual tier shows each of them one type, all types in turn.
@pytest.mark.parametrize(
    ("type", "unit", "gate"),
    [
        pytest.param(type, *variant, marks=[] if (i - j) % len(topology.TYPES) == 0 else pytest.mark.slow)
        for i, variant in enumerate(VARIANTS)
        for j, type in enumerate(topology.TYPES)
    ],
)
def test_equations(type: str, unit: str, gate: str) -> None:
    """Outputs and gradients in double precision, in evaluation and in training; statistics of the norms likewise."""
    n = VARIANTS.index((unit, gate)) + list(topology.TYPES).index(type)
    channels = (8,) * 4 if unit == "sparse" or n % 2 else (4, 8, 12, 16)
    task = {"dtype": torch.float64, "global_pool": "avg", "num_classes": 5}
    net = settle_norms(fabric(type, 3, channels, unit, task, gate=gate, up=UPS[n % 3], head=HEADS[n // 3 % 3])).eval()
    x = torch.randn(3, 3, *SIZES[n // 2 % 3], dtype=torch.float64)
    compare(net, x)


@pytest.mark.parametrize("side", [17, 31, 32, 33])
@pytest.mark.parametrize("unit", ["conv", "post", "pre"])
def test_equations_with_six_scales(unit: str, side: int) -> None:
    net = settle_norms(fabric("d", 2, (4,) * 6, unit, {"dtype": torch.float64})).eval()
    compare(net, torch.randn(2, 3, side, side, dtype=torch.float64))


def test_equations_of_the_grid_net() -> None:
    spec = zoo.model_entry("gridnet_l6_s5_c16x2").spec.replace(channels=(4, 4, 8, 8, 12))
    compare(
        settle_norms(Fabric(spec, num_classes=3, dtype=torch.float64)).eval(),
        torch.randn(2, 3, 21, 32, dtype=torch.float64),
    )


@pytest.mark.parametrize(
    ("type", "unit", "spec"),
    [
        ("a", "conv", {"column_skip": 4}),
        ("d", "pre", {"column_skip": 2, "skips": "across", "gate": "scaled"}),
        ("b", "preshared", {"column_skip": 1, "gate": "gated", "head": "hypercolumn"}),
        ("a", "post", {"skips": "across", "gate": "dropout"}),
    ],
)
def test_equations_of_other_skips(type: str, unit: str, spec: dict[str, Any]) -> None:
    columns = spec.get("column_skip", 2) + 2
    net = settle_norms(fabric(type, columns, (4, 4, 8), unit, {"dtype": torch.float64}, **spec)).eval()
    compare(net, torch.randn(2, 3, 9, 12, dtype=torch.float64))


def compare(net: Fabric, x: Tensor) -> None:
    for train in (False, True):
        ours, plain = (copy.deepcopy(net).train(train) for _ in range(2))
        results = []
        for side in (ours, PlainFabric(plain)):
            torch.manual_seed(3)  # whole skips that are dropped
            out = side(x)
            (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
            results.append(out.detach())
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
        for (key, have), want in zip(ours.named_parameters(), plain.parameters(), strict=True):
            if have.grad is not None:
                torch.testing.assert_close(have.grad, want.grad, rtol=1e-8, atol=1e-9, msg=key)
            else:
                assert want.grad is None or not want.grad.any(), key
        live = {key for key, p in ours.named_parameters() if p.grad is not None}
        for (key, have), want in zip(ours.named_buffers(), plain.buffers(), strict=True):
            if key.rpartition(".")[0] + ".weight" in live:
                torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-10, msg=key)


def test_a_wrong_fabric_is_found() -> None:
    net = settle_norms(fabric("a", 3, (8,) * 4, "post", {"dtype": torch.float64}, gate="scaled")).eval()
    net.columns[1].get_submodule("1").down.gate.factor *= 1.01
    with pytest.raises(AssertionError):
        compare(net, torch.randn(2, 3, 16, 16, dtype=torch.float64))


# Skips and gates


@pytest.mark.parametrize("unit", ["pre", "preshared"])
def test_scaled_skips_conserve_one_copy(unit: str) -> None:
    """With silent branches a constant map arrives as it left, over all 44 ways of type a with three columns."""
    for gate, copies in (("scaled", 1), ("dropout", 1), ("none", 44)):
        net = fabric("a", 3, (8,) * 6, unit, {"zero_init_last": True}, gate=gate).eval()
        x = torch.full((1, 8, 32, 32), 0.5)
        if unit == "preshared":
            net.columns[2].get_submodule("5").finish = nn.Identity()
        nodes = net.columns(x, [5])
        torch.testing.assert_close(nodes[5], torch.full((1, 8, 1, 1), 0.5 * copies))


def test_dropped_skips() -> None:
    gate = KeepAll(0.25)
    x = torch.ones(5, 2, 3, 3)
    draws = torch.stack([gate(x) for _ in range(400)])
    assert all(len(draw.unique()) == 1 for draw in draws), "one draw for the batch"
    assert set(draws.unique().tolist()) == {0.0, 1.0}, "what is kept is not scaled up"
    assert abs(draws.mean() - 0.25) < 0.08
    assert torch.equal(gate.eval()(x), x * 0.25)
    net = settle_norms(fabric("a", 3, (8,) * 4, "pre", gate="dropout")).eval()
    same = fabric("a", 3, (8,) * 4, "pre", gate="scaled").eval()
    same.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(same(x), net(x))


@pytest.mark.parametrize(("skips", "degree"), [("all", 4), ("within", 1), ("across", 3)])
def test_a_gate_counts_edges_with_a_skip(skips: str, degree: int) -> None:
    net = fabric("a", 3, (4,) * 4, "post", {"device": "meta"}, gate="scaled", skips=skips)
    cells = {node: net.columns[node[0]].get_submodule(str(node[1])) for node in ((1, 1), (0, 2), (1, 0), (1, 2))}
    # The edges that leave node (0, 1): along, down, up, and inside of its column.
    edges = [cells[1, 1].fwd, cells[1, 2].down, cells[1, 0].up, cells[0, 2].zip]
    skipping = [edge for edge in edges if edge.skips]
    assert len(skipping) == degree
    for edge in skipping:
        assert getattr(edge.gate, "factor", 1) == 1 / degree


def test_column_skips_add_no_parameters() -> None:
    """They are compiled, checkpointed and kept by a pruned net as the other edges are."""
    net = settle_norms(fabric("d", 4, (4,) * 3, column_skip=2)).eval()
    plain = fabric("d", 4, (4,) * 3)
    assert net.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 3, 12, 12)
    logits = net(x)
    torch.testing.assert_close(torch.jit.script(net)(x), logits)
    again = copy.deepcopy(net)
    again.set_grad_checkpointing()
    torch.testing.assert_close(again(x), logits)
    assert not torch.allclose(plain.eval()(x), logits)
    plain.load_state_dict(net.state_dict())
    assert not torch.allclose(plain(x), logits)
    net.prune_intermediate_layers([2], prune_head=False)
    torch.testing.assert_close(net(x), logits)


def test_edges_without_a_skip_do_not_start_at_zero() -> None:
    """An edge of zeros behind a ReLU has no gradient, so it would stay at zero for ever."""
    net = fabric("a", 2, (4, 4), "post", {"zero_init_last": True}, skips="within")
    net.train()(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name, p in net.named_parameters():
        if name.endswith("expand.norm.weight"):
            assert p.grad is not None
            assert p.any() != (".fwd." in name)
            assert p.grad.any()


def test_the_released_pre_unit_ignores_its_first_norm() -> None:
    net = settle_norms(fabric("a", 3, (8,) * 3, "pre_released", task={"num_classes": 2})).eval()
    net(torch.randn(2, 3, 8, 8)).sum().backward()
    firsts = {key for key, _ in net.named_parameters() if key.split(".")[-2] == "norm" and key.count(".") == 5}
    silent = {key for key, p in net.named_parameters() if p.grad is None}
    assert silent
    assert silent == {key for key in firsts if key.split(".")[-3] in ("fwd", "down", "up", "zip")}


def test_the_band() -> None:
    kit, conv = zoo.layers.Kit(), zoo.layers.Conv
    for ins, outs, sees in (
        (6, 6, [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4, 5}, {4, 5}]),
        (4, 8, [{0}, {0, 1}, {0, 1}, {1, 2}, {1, 2}, {2, 3}, {2, 3}, {3}]),
        (8, 4, [{0, 1, 2}, {1, 2, 3, 4}, {3, 4, 5, 6}, {5, 6, 7}]),
        (3, 3, [{0, 1, 2}] * 3),
    ):
        net = kit.band(ins, conv(out_chs=outs, kernel=3))
        x = torch.randn(1, ins, 5, 5, requires_grad=True)
        for c in range(outs):
            (grad,) = torch.autograd.grad(net(x)[0, c].sum(), x)
            assert set(grad.abs().sum((0, 2, 3)).nonzero().flatten().tolist()) == sees[c]


# Taps, heads, what is computed


def test_dead_nodes_are_computed_for_taps_alone() -> None:
    net = settle_norms(fabric("d", 4, (8,) * 4, "post")).eval()
    x = torch.randn(2, 3, 16, 16)
    ran = Counter()
    for column, scale in topology.node_order("d", 4, 4):
        cell = net.columns[column].get_submodule(str(scale))
        cell.register_forward_hook(lambda *_, node=(column, scale): ran.update([node]))
    logits = net(x)
    assert set(ran) == topology.live_nodes(net.spec.edges, net.spec.head_nodes)
    ran.clear()
    _, taps = net.forward_intermediates(x)
    assert len(ran) == 16
    assert [t.shape[-1] for t in taps] == [16, 8, 4, 2]
    torch.testing.assert_close(net.classifier(taps[-1]), logits)
    ran.clear()
    net.forward_intermediates(x, indices=[3], stop_early=True)
    assert len(ran) == 13


@pytest.mark.parametrize("wrapper", ["list", "hook", "getter", "fx"])
def test_wrappers_see_dead_nodes(wrapper: str) -> None:
    name, spec = "fabric_a_l3_s3_c32x2_post_cifar", {"type": "d", "columns": 2, "channels": (8, 8, 8)}
    torch.manual_seed(0)
    net = zoo.create_model(name, **spec).eval()
    torch.manual_seed(0)
    wrapped = zoo.create_model(name, features_only=True, feature_cls=wrapper, **spec).eval()
    x = torch.randn(2, 3, 16, 16)
    for have, want in zip(wrapped(x), net.forward_intermediates(x, intermediates_only=True), strict=True):
        torch.testing.assert_close(have, want)


def test_pruning_a_partly_dead_fabric() -> None:
    for take in ([3], [0], [1, 2]):
        net = settle_norms(fabric("d", 4, (8,) * 4, "post")).eval()
        x = torch.randn(2, 3, 16, 16)
        want = net.forward_intermediates(x, indices=take, intermediates_only=True)
        net.prune_intermediate_layers(take)
        have = net.forward_intermediates(x, indices=take, intermediates_only=True)
        for a, b in zip(have, want, strict=True):
            torch.testing.assert_close(a, b)
        sum(t.square().sum() for t in have).backward()
        assert all(p.grad is not None for p in net.parameters())
    with pytest.raises(ValueError, match=r"scale 0 was removed"):
        net.forward_intermediates(x, indices=[0])


def test_dense_heads() -> None:
    x = torch.randn(2, 3, 19, 16)
    dense = settle_norms(fabric("d", 4, (4, 8, 12, 16), "pre", head="dense", out_scale=1)).eval()
    assert dense(x).shape == (2, 10, 10, 8)
    taps = dense.forward_intermediates(x, norm=True, intermediates_only=True)
    torch.testing.assert_close(dense.forward_head(taps[1]), dense(x))
    hyper = settle_norms(fabric("a", 4, (4, 8, 12, 16), head="hypercolumn")).eval()
    assert hyper.num_features == 4 * 4
    assert hyper(x).shape == (2, 10, 19, 16)
    nodes = PlainFabric(hyper).nodes(x)
    torch.testing.assert_close(hyper.forward_features(x), torch.cat([nodes[column, 0] for column in range(4)], dim=1))
    hyper.reset_classifier(7, "avg")
    assert hyper(x).shape == (2, 7)


@pytest.mark.parametrize("unit", ["conv", "post", "pre", "preshared"])
def test_checkpointing_by_column(unit: str) -> None:
    net = settle_norms(fabric("d", 4, (8,) * 4, unit, {"dtype": torch.float64}))
    other = copy.deepcopy(net)
    other.set_grad_checkpointing()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    out, again = net(x), other(x)
    torch.testing.assert_close(again, out)
    out.sum().backward()
    again.sum().backward()
    for (key, p), q in zip(net.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, msg=key)


def test_output_stride_keeps_the_finest_column() -> None:
    """With every stride held there is nothing to enlarge, and no edge changes the size."""
    net = settle_norms(fabric("d", 3, (8,) * 4, "pre")).eval()
    held = fabric("d", 3, (8,) * 4, "pre", {"output_stride": 2}).eval()
    held.load_state_dict(net.state_dict())
    with torch.no_grad():
        taps = held.forward_intermediates(torch.randn(1, 3, 16, 16), intermediates_only=True)
    assert [t.shape[-1] for t in taps] == [16, 8, 8, 8]


# Errors and facts


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("type", "c", r"type \('c'\) must be one of a, b, bd, d"),
        ("unit", "bottle", r"unit \('bottle'\) must be one of conv"),
        ("gate", "scaled", r"gate \('scaled'\) must be none: unit 'conv' has no skip"),
        ("channels", (128,) * 5, r"channels .* must have 6 numbers, one a scale, finest first"),
        ("channels", (1,) * 6, r"channels .* must be at least 2 at every scale"),
        ("channels", (0,) * 6, r"channels .* must hold positive whole numbers"),
        ("columns", 1, r"columns \(1\) must be at least 2"),
        ("scales", 1, r"scales \(1\) must be at least 2"),
        ("up", "cubic", r"up \('cubic'\) must be one of bilinear"),
        ("out_scale", 6, r"out_scale \(6\) must be one of the 6 scales"),
        ("out_scale", 2, r"out_scale \(2\) must be 0 with head 'classify'"),
        ("head", "both", r"head \('both'\) must be one of"),
        ("skips", "within", r"skips \('within'\) must be all"),
        ("skips", "some", r"skips \('some'\) must be one of all, within, across"),
        ("column_skip", -4, r"column_skip \(-4\) must be below the 8 columns, or 0"),
        ("column_skip", 8, r"column_skip \(8\) must be below the 8 columns, or 0"),
    ],
)
def test_errors_say_what_to_do(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.create_model("fabric_a_l8_s6_c128_cifar", device="meta", **{field: value})


def test_bottlenecks_need_quarters() -> None:
    with pytest.raises(ValueError, match=r"channels .* must be multiples of 4"):
        zoo.create_model("fabric_a_l3_s6_c128_pre_cifar", channels=(6,) * 6, device="meta")
    with pytest.raises(ValueError, match=r"conv_bias \(True\) must be False"):
        zoo.create_model("fabric_a_l3_s6_c128_pre_cifar", conv_bias=True, device="meta")


def test_small_images_are_named() -> None:
    net = fabric("a", 2, (4,) * 6).eval()
    with pytest.raises(ValueError, match=r"input size \(16x40\) must be at least 17x17 "):
        net(torch.randn(1, 3, 16, 40))
    large = fabric("a", 2, (4,) * 4, stem="imagenet").eval()
    assert large(torch.randn(1, 3, 17, 17)).shape == (1, 10)
    with pytest.raises(ValueError, match=r"input size \(16x16\) must be at least 17x17 "):
        large(torch.randn(1, 3, 16, 16))


def test_facts() -> None:
    facts = zoo.model_entry("fabric_d_l8_s6_c128_cifar").spec.facts()
    assert facts["grid"].startswith("8 columns x 6 scales, type d")
    assert facts["edges"] == "152: fwd 42, down 35, up 35, zip_down 20, zip_up 20"
    assert facts["live edges"] == "133 of 152, 19 dead"
    assert facts["live nodes"] == "43 of 48"
    assert facts["paths"].startswith("4,273,180")
    assert zoo.model_entry("resnet50").spec.facts() == {}
    skipping = zoo.model_entry("fabric_d_l8_s6_c128_cifar").spec.replace(column_skip=4)
    assert skipping.facts()["edges"] == "176: fwd 42, down 35, up 35, zip_down 20, zip_up 20, column_skip 24"
