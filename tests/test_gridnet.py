"""GridNet against the order of its authors' code, written out plainly, and what only this family claims."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo import topology
from zoo.analysis.prune import prune, read_edges
from zoo.models.gridnet import TotalDropout
from zoo.testing import settle_norms

SMALL: dict[str, Any] = dict(columns=6, channels=(4, 6, 8))


class Released:
    """The released net: columns and streams are walked as there, and what is transposed there is transposed here."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.state = net, net.state_dict()
        self.half, self.streams = net.spec.columns // 2, len(net.spec.channels)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, gamma, beta = (
            self.state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gamma + beta

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride, padding=1)

    def full(self, x: Tensor, name: str) -> Tensor:
        """SpatialFullConvolution of stride 1: ours is the convolution with the kernel turned round."""
        turned = self.state[f"{name}.weight"].flip(2, 3).transpose(0, 1)
        return F.conv_transpose2d(x, turned, self.state[f"{name}.bias"], padding=1)

    def enlarged(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.conv_transpose2d(x, weight, bias, stride=2, padding=1, output_padding=1)

    def pair(self, x: Tensor, node: tuple[int, int], edge: str, first: Any, second: Any) -> Tensor:
        name = f"columns.{node[0]}.{node[1]}.{edge}.branch"
        x = first(F.relu(self.norm(x, f"{name}.norm1")), f"{name}.conv1")
        return second(F.relu(self.norm(x, f"{name}.norm2")), f"{name}.conv2")

    def down(self, x: Tensor, node: tuple[int, int]) -> Tensor:
        return self.pair(x, node, "zip", lambda x, name: self.conv(x, name, stride=2), self.conv)

    def up(self, x: Tensor, node: tuple[int, int]) -> Tensor:
        return self.pair(x, node, "zip", self.enlarged, self.full)

    def row(self, x: Tensor, node: tuple[int, int]) -> Tensor:
        """Of the columns upwards the first has plain convolutions along the rows, the others transposed ones."""
        kind = self.conv if node[0] <= self.half else self.full
        return x + self.pair(x, node, "fwd", kind, kind)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.norm(x, "stem.norm1")
        for i in (1, 2):
            x = F.relu(self.norm(self.conv(x, f"stem.conv{i}"), f"stem.norm{i + 1}"))
        stream = [x]
        for s in range(1, self.streams):
            stream.append(self.down(stream[s - 1], (0, s)))
        for column in range(1, self.half):
            stream = [self.row(x, (column, s)) for s, x in enumerate(stream)]
            for s in range(1, self.streams):
                stream[s] = stream[s] + self.down(stream[s - 1], (column, s))
        for column in range(self.half, 2 * self.half):
            stream = [self.row(x, (column, s)) for s, x in enumerate(stream)]
            for s in reversed(range(self.streams - 1)):
                stream[s] = stream[s] + self.up(stream[s + 1], (column, s))
        x = F.relu(self.norm(self.full(stream[0], "classifier.hidden.conv1"), "classifier.hidden.norm1"))
        return self.norm(self.full(x, "classifier.fc"), "classifier.norm")


def small(**changes: Any) -> Any:
    torch.manual_seed(0)
    return settle_norms(zoo.create_model("gridnet_test", **SMALL | changes)).double().eval()


def test_the_net_is_that_of_the_released_code() -> None:
    net, x = small(dropout=0.1), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(net(x), Released(net)(x))


def test_the_preset_is_the_call_in_the_released_code() -> None:
    entry = zoo.model_entry("gridnet")
    assert entry.spec.to_dict() == {"columns": 6, "channels": (16, 32, 64, 128, 256), "dropout": 0.1}
    net = zoo.create_model("gridnet", device="meta")
    layers = Counter(type(module).__name__ for module in net.modules())
    pairs = 5 * 5 + 3 * 4 + 3 * 4
    assert (layers["ConvTranspose2d"], layers["TotalDropout"]) == (3 * 4, 5 * 5)
    assert layers["Conv2d"] + layers["ConvTranspose2d"] == 2 + 2 * pairs + 2
    assert layers["BatchNorm2d"] == 3 + 2 * pairs + 2
    assert all(p.shape for p in net.parameters())
    assert net(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 19, 64, 64)


def test_total_dropout_draws_once_a_batch_and_scales_nothing() -> None:
    torch.manual_seed(0)
    drop, x = TotalDropout(0.5), torch.randn(3, 2, 4, 4)
    seen = [drop(x) for _ in range(40)]
    kept = [torch.equal(out, x) for out in seen]
    assert all(kept[i] or not out.any() for i, out in enumerate(seen))
    assert 5 < sum(kept) < 35
    assert torch.equal(drop.eval()(x), x), "evaluation is not scaled either"


def test_only_rows_are_dropped() -> None:
    """Without its branch a node of the last row is the node before it; what goes up or down is never left out."""
    net = small(dropout=0.999999).train()
    seen: dict[str, Tensor] = {}
    for column in (4, 5):
        net.columns[column].get_submodule("2").register_forward_hook(
            lambda *given, column=column: seen.update({f"{column}": given[2][0]})
        )
    scores = net(torch.randn(2, 3, 16, 16, dtype=torch.float64))
    (scores * torch.randn_like(scores)).sum().backward()
    assert torch.equal(seen["4"], seen["5"])
    moving = [p.grad for name, p in net.named_parameters() if name.endswith("zip.branch.conv1.weight")]
    assert len(moving) == 12
    assert all(grad is not None and grad.any() for grad in moving)


def test_odd_sizes_are_rounded_up_and_cut() -> None:
    net = small()
    taps = net.forward_intermediates(torch.randn(1, 3, 13, 19, dtype=torch.float64), intermediates_only=True)
    assert [tuple(t.shape[-2:]) for t in taps] == [(13, 19), (7, 10), (4, 5)]


def test_scores_come_from_two_windows_and_go_with_the_classes() -> None:
    net, x = small(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    net.reset_classifier(7)
    hidden, last = net.classifier.hidden.conv1, net.get_classifier()
    assert [tuple(conv.weight.shape) for conv in (hidden, last)] == [(7, 4, 3, 3), (7, 7, 3, 3)]
    assert net(x).shape == (1, 7, 16, 16)
    net.reset_classifier(7, "avg")
    assert [tuple(p.shape) for p in net.classifier.parameters()] == [(7, 4), (7,)]
    assert net(x).shape == (1, 7)


def test_weights_of_other_classes_leave_the_head_new(tmp_path: Path) -> None:
    net, other = zoo.create_model("gridnet_test", num_classes=5), zoo.create_model("gridnet_test")
    torch.save(other.state_dict(), tmp_path / "ten.pth")
    head = {name: value.clone() for name, value in net.state_dict().items() if name.startswith("classifier.")}
    loaded = zoo.load_weights(net, tmp_path / "ten.pth")
    assert loaded.new == ("classifier.fc (10x10 in the file, 5x5 in the net)",)
    state = net.state_dict()
    assert all(torch.equal(state[name], head.get(name, other.state_dict()[name])) for name in state)


def test_edges_can_be_pruned_like_those_of_a_fabric() -> None:
    net, x = small(), torch.randn(1, 3, 16, 16, dtype=torch.float64)
    edges = read_edges(net)
    assert Counter(edge.kind for edge in edges) == {"fwd": 15, "zip_down": 6, "zip_up": 6}
    assert topology.live_nodes(net.spec.edges, net.spec.head_nodes) == {(c, s) for c in range(6) for s in range(3)}
    with torch.no_grad():
        torch.testing.assert_close(prune(net, [])(x), net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": 5}, r"columns \(5\) must be even"),
        ({"channels": (8,)}, r"channels \(\(8,\)\) must have at least two numbers"),
        ({"dropout": 1.0}, r"dropout \(1.0\) must lie in"),
    ],
)
def test_wrong_numbers_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.model_entry("gridnet_test").spec.replace(**change)
