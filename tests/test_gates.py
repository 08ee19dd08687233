"""Edges and gates of fabrics, and pruned fabrics, against what the fabric computes with those edges silenced."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from structures import FABRIC
from torch import Tensor

import zoo
from zoo.analysis.gates import EdgeFacts, edge_facts, folded
from zoo.analysis.nets import Options
from zoo.analysis.prune import Hold, child_of, prune, read_edges
from zoo.analysis.run import analyse
from zoo.topology import COLUMN_SKIP

GATED = FABRIC | {"unit": "post", "gate": "gated", "stem": "cifar"}


def fabric(**changes: Any) -> Any:
    """A fabric whose norms have statistics and factors of their own."""
    net = zoo.create_model("fabric_test", **GATED | changes)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.uniform_(0.5, 1)  # ty: ignore[unresolved-attribute]
    return net.eval()


def silenced(net: Any, edges: Any, x: Tensor) -> Tensor:
    """Logits of a net whose edges give zeros."""
    hooks = [
        net.get_submodule(child_of(edge)).register_forward_hook(lambda _m, _i, out: torch.zeros_like(out))
        for edge in edges
    ]
    with torch.no_grad():
        logits = net(x)
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"type": "d", "columns": 4, "column_skip": 2},
        {"unit": "conv", "gate": "none", "type": "d", "up": "zero"},
        {"head": "dense", "skips": "across"},
    ],
    ids=str,
)
def test_a_pruned_fabric_is_the_fabric_with_silent_edges(changes: dict[str, Any]) -> None:
    """Also of an image whose sizes do not halve evenly, and where nodes come from nowhere."""
    net, x = fabric(**changes), torch.randn(2, 3, 21, 26)
    edges = read_edges(net)
    generator = torch.Generator().manual_seed(0)
    compared = 0
    for number in (1, 5, 9, 5):
        chosen = [edges[i] for i in torch.randperm(len(edges), generator=generator)[:number].tolist()]
        try:
            small = prune(net, chosen)
        except ValueError:  # no path is left; a test below asks for the words
            continue
        # What comes from nowhere is silent, too: its edges are gone in the small net.
        quiet = [*chosen, *(edge for edge in edges if edge not in read_edges(small))]
        with torch.no_grad():
            torch.testing.assert_close(small(x), silenced(net, quiet, x))
        assert sum(p.numel() for p in small.parameters()) <= sum(p.numel() for p in net.parameters())
        compared += 1
    assert compared > 1


def test_a_node_that_comes_from_nowhere_still_gives_its_size() -> None:
    """The node behind it enlarges a map to a size that no other edge of it knows."""
    net, x = fabric(), torch.randn(2, 3, 21, 26)
    edges = read_edges(net)
    chosen = [edge for edge in edges if edge.target == (1, 1)]
    small = prune(net, chosen)
    assert [name for name, module in small.named_modules() if isinstance(module, Hold)] == ["columns.1.1"]
    quiet = [edge for edge in edges if edge not in read_edges(small)]
    assert {edge for edge in quiet if edge not in chosen} == {edge for edge in edges if edge.source == (1, 1)}
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(net, quiet, x))


def test_column_skips_alone_make_a_net() -> None:
    net, x = fabric(columns=3, column_skip=2), torch.randn(2, 3, 21, 26)
    chosen = [edge for edge in read_edges(net) if edge.kind not in ("zip_down", COLUMN_SKIP)]
    small = prune(net, chosen)
    assert {edge.kind for edge in read_edges(small)} == {"zip_down", COLUMN_SKIP}
    with torch.no_grad():
        torch.testing.assert_close(small(x), silenced(net, chosen, x))
    found = {facts.edge: facts for facts in edge_facts(net, x, torch.tensor([0, 1]))}
    assert all(facts.norm is facts.ratio is None for edge, facts in found.items() if edge.kind == COLUMN_SKIP)


def test_nothing_without_a_path_is_a_net() -> None:
    net = fabric()
    with pytest.raises(ValueError, match="leaves no path to the head: keep more of them"):
        prune(net, read_edges(net))
    with pytest.raises(ValueError, match=r"net \(ResNet\) must be a fabric"):
        prune(zoo.create_model("resnet_test"), ())


def test_the_facts_of_edges() -> None:
    net = fabric()
    fwd = next(edge for edge in read_edges(net) if edge.kind == "fwd")
    layer = net.get_submodule(child_of(fwd))
    outs = layer.project.conv.weight.shape[0]
    with torch.no_grad():  # a gate of 3 times the identity, behind a norm that halves
        layer.project.conv.weight.copy_(3 * torch.eye(outs)[:, :, None, None])
        layer.project.norm.weight.fill_(0.5)
        layer.project.norm.running_var.fill_(1 - layer.project.norm.eps)
    torch.testing.assert_close(folded(layer.project), 1.5 * torch.eye(outs))
    state = {key: value.clone() for key, value in net.state_dict().items()}
    images = torch.randn(4, 3, 16, 16)
    random = torch.get_rng_state()
    found = {facts.edge: facts for facts in edge_facts(net, images, torch.zeros(4, dtype=torch.long))}
    assert list(found) == list(read_edges(net))
    facts = found[fwd]
    assert facts.norm == pytest.approx(1.5)
    assert facts.largest == pytest.approx(1.5)
    assert facts.identity == pytest.approx(1)
    assert all(f.ratio is not None and f.ratio > 0 for f in found.values())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert torch.equal(random, torch.get_rng_state())


def test_every_image_has_one_weight_in_a_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last batch is smaller than the others, and its images are unlike them."""
    net, edge = fabric(), torch.randn(4, 3, 16, 16)
    edge[3] *= 100
    whole, parts = [], []
    for batch_size, found in ((4, whole), (3, parts)):
        monkeypatch.setattr("zoo.analysis.gates.BATCH", batch_size)
        found += [facts.ratio for facts in edge_facts(net, edge, torch.zeros(4, dtype=torch.long))]
    assert parts == pytest.approx(whole, rel=1e-5)


def test_edges_that_then_lead_nowhere_are_counted_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = read_edges(zoo.create_model("fabric_test", device="meta"))
    weak = [edge for edge in edges if edge.target == (1, 1)]
    told = [EdgeFacts(edge, None, None, None, None, None, 0.0 if edge in weak else 10.0) for edge in edges]
    monkeypatch.setattr("zoo.analysis.gates.edge_facts", lambda *_: told)
    outcome = analyse("gates", ["fabric_test"], Options(images=2, threshold=5))
    small = prune(zoo.create_model("fabric_test"), weak)
    nowhere = [edge for edge in edges if edge.source == (1, 1)]
    assert len(read_edges(small)) == len(edges) - len(weak) - len(nowhere)
    assert f"{len(edges)} edges -> {len(read_edges(small))} (" in outcome.notes[1]
    assert all(child_of(edge) in outcome.notes[1] for edge in nowhere)
    assert "Random weights, which tell little here: fabric_test." in outcome.notes
    figure = Figure()
    outcome.draw(figure)
    gone = figure.axes[-1].lines[0].get_xdata()
    assert list(gone)[: len(weak) + 1] == [*range(len(weak)), len(weak) + len(nowhere)]


def test_the_analysis(tmp_path: Path) -> None:
    outcome = analyse("gates", ["fabric_test"], Options(images=2, threshold=-1000))
    assert [path.suffix for path in outcome.write(tmp_path)] == [".csv", ".png", ".svg"]
    assert len(outcome.rows) == len(read_edges(zoo.create_model("fabric_test", device="meta")))
    assert "% -> " in outcome.notes[1]
    with pytest.raises(ValueError, match=r"net \(ResNet\) must be a fabric"):
        analyse("gates", ["resnet_test"], Options(images=2))
