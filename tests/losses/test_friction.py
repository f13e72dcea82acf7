"""What users of MONAI, nnU-Net, segmentation_models_pytorch and kornia stumble over: one test each, F1 to F15."""

import inspect

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from oracle import close, value_and_gradient
from torch import nn

import fastloss
from fastloss import metrics
from fastloss.losses.options import ELSEWHERE
from fastloss.precompute import LabelMaps

Z, Y = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 8, 12, dtype=torch.long)
Y[:, 2:5, 3:9], Y[:, 5:, 5:] = 1, 2
with_torch_distributed = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no torch.distributed with gloo"
)


def same(found, expected):
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_f1_float_labels_with_a_channel_axis():
    """All volumes that MONAI's LoadImaged reads are float32."""
    labels = Y.unsqueeze(1)
    for loss in (fastloss.DiceCELoss(), fastloss.TopKLoss(), fastloss.LovaszLoss(), fastloss.BoundaryLoss()):
        same(value_and_gradient(loss, Z, labels.float()), value_and_gradient(loss, Z, labels))
    with pytest.raises(ValueError, match=r"target: 0\.5 at index \(1, 2, 3\) \(sample, then axes\) is no whole number"):
        broken = labels.float()
        broken[1, 0, 2, 3] = 0.5
        fastloss.DiceCELoss()(Z, broken)


def test_f1b_float_labels_of_label_maps():
    maps = LabelMaps(fastloss.BoundaryLoss(), channels=3)
    labels = Y[:1]  # [1, X, Y], a channel axis and a slice
    found = (maps({"label": label})["maps"] for label in (labels.float(), labels))
    assert torch.equal(*found)
    with pytest.raises(ValueError, match=r"label: got floats of shape \[8, 12\].* need the axis of size 1"):
        maps({"label": Y[0].float()})


def test_f1c_binary_masks_without_a_channel_axis():
    """segmentation_models_pytorch takes float masks [B, H, W]: here the message has the cure."""
    logits, masks = Z[:, :1], (Y > 0).float()
    loss = fastloss.DiceLoss(activation="sigmoid")
    with pytest.raises(ValueError, match=r"labels of floats need the axis 1 of size 1, or an integer dtype"):
        loss(logits, masks)
    close(loss(logits, masks[:, None]), loss(logits, masks.long()))


def test_f1d_labels_that_monais_deep_supervision_resizes():
    """It interpolates, for which labels must be floats or uint8; fastloss takes the floats that come of it."""
    supervised = pytest.importorskip("monai.losses").DeepSupervisionLoss(fastloss.DiceCELoss(), weights=[1.0, 0.5])
    levels = [Z, Z[..., ::2, ::2].contiguous()]
    ours = fastloss.DeepSupervision(fastloss.DiceCELoss(), [1.0, 0.5], sampling="nearest-exact")
    for labels in (Y.unsqueeze(1).float(), Y.unsqueeze(1).byte()):
        close(supervised(levels, labels), ours(levels, Y))


def test_f1e_float_targets_of_metrics():
    one_hot = F.one_hot(Y, 3).movedim(-1, 1)
    expected = metrics.confusion_counts(Z, Y, activation="softmax")
    for target in (Y.float(), Y.unsqueeze(1).float(), one_hot.float()):
        assert torch.equal(metrics.confusion_counts(Z, target, activation="softmax").dice(), expected.dice())
        found = metrics.surface_distances(Z, target, activation="softmax").average()
        assert torch.equal(found, metrics.surface_distances(Z, Y, activation="softmax").average())
    for target in (Y + 0.5, 0.3 * one_hot, Y.float().masked_fill(Y == 1, torch.inf)):
        with pytest.raises(
            ValueError, match=r"target: no whole number at index \(0, \d, \d\) .* expected labels, or masks"
        ):
            metrics.confusion_counts(Z, target, activation="softmax")


def test_f2_deep_supervision_with_the_numbers_of_nnunet():
    """Its labels are nearest-exact; its coarsest level has the weight 0."""
    levels = [torch.randn(2, 3, 8 // f, 12 // f) for f in (1, 2, 4)]
    targets = [F.interpolate(Y[:, None].float(), z.shape[2:], mode="nearest-exact").long()[:, 0] for z in levels]
    loss, weights = fastloss.DiceCELoss(), [2 / 3, 1 / 3, 0]
    expected = sum(w * loss(z, y) for w, z, y in zip(weights, levels, targets, strict=True))
    close(fastloss.DeepSupervision(loss, weights, sampling="nearest-exact")(levels, Y), expected)
    assert not torch.equal(fastloss.DeepSupervision(loss, weights)(levels, Y), expected)


def test_f3_a_list_of_targets():
    levels = [Z, Z[..., ::2, ::2]]
    targets = [Y[:, None].float(), Y[:, None, 1::2, 1::2].float()]
    supervised = fastloss.DeepSupervision(fastloss.DiceCELoss(), [0.7, 0.3])
    expected = 0.7 * fastloss.DiceCELoss()(Z, Y) + 0.3 * fastloss.DiceCELoss()(levels[1], Y[:, 1::2, 1::2])
    close(supervised(levels, targets), expected)


def test_f4_one_tensor_in_evaluation():
    same(
        value_and_gradient(fastloss.DeepSupervision(fastloss.DiceLoss()), Z, Y),
        value_and_gradient(fastloss.DiceLoss(), Z, Y),
    )


@pytest.mark.parametrize(
    ("loss", "option"),
    [
        (fastloss.FocalLoss(), "gamma"),
        (fastloss.DiceLoss(), "squared"),
        (fastloss.DiceCELoss(), "smooth"),
        (fastloss.CrossEntropyLoss(), "label_smoothing"),
        (fastloss.TopKLoss(), "k"),
        (fastloss.LovaszHingeLoss(), "per_sample"),
        (fastloss.DiceCELoss(), "ignore_index"),
    ],
)
def test_f5_options_are_not_changed_in_silence(loss, option):
    with pytest.raises(AttributeError, match=f"{option}: is fixed when a .* is made.*expected a new loss"):
        setattr(loss, option, 5)


def test_f6_repr_names_every_option():
    """For nnU-Net's debug.json and loggers: all that a constructor takes, but what is left at None."""
    made = {
        "FocalLoss": {"gamma": 3.0, "alpha": 0.25, "class_weight": [1.0, 2.0]},
        "DiceLoss": {"smooth": (0.1, 0.2), "soft_label": True, "batch": True, "include_background": False},
        "CrossEntropyLoss": {
            "label_smoothing": 0.1,
            "ignore_index": 255,
            "reduction": "none",
            "process_group": "world",
        },
        "TopKLoss": {"k": 0.2, "count_ignored": True, "label_smoothing": 0.1, "class_weight": [1.0, 2.0]},
        "LovaszHingeLoss": {"per_sample": False, "validate": True},
        "DiceTopKLoss": {"k": 0.2, "topk_weight": 0.5, "squared": True},
    }
    for name, options in made.items():
        text = repr(getattr(fastloss, name)(**options))
        assert all(f"{option}=" in text for option in options), text
    assert "sampling='nearest-exact'" in repr(fastloss.DeepSupervision(fastloss.DiceLoss(), sampling="nearest-exact"))


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_f7_a_second_derivative_names_what_to_do(backend):
    leaf = Z.clone().requires_grad_()
    with fastloss.backend(backend):
        (slope,) = torch.autograd.grad(fastloss.DiceLoss()(leaf, Y), leaf, create_graph=True)
        with pytest.raises(NotImplementedError, match=r"on every back end: .* equation, which its docstring has"):
            slope.sum().backward()


@pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean")
def test_f8_jit_trace_is_one_clear_error():
    with pytest.raises(NotImplementedError, match=r"cannot be traced by torch\.jit\.trace"):
        torch.jit.trace(fastloss.DiceLoss(), (Z, Y))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_f9_jit_script_of_a_network_with_a_loss_and_of_the_loss():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.loss = nn.Conv2d(3, 3, 1), fastloss.DiceCELoss()

        def forward(self, x):
            return self.head(x)

    net = Net()
    assert torch.equal(torch.jit.script(net)(Z), net(Z))
    for loss in (fastloss.DiceLoss(), fastloss.DeepSupervision(fastloss.DiceLoss())):
        with pytest.raises(NotImplementedError, match=r"do not run in TorchScript: .* torch\.compile or torch\.export"):
            torch.jit.script(loss)(Z, Y)


def test_f10_top_k_of_all_voxels_as_nnunet():
    labels = Y.masked_fill(Y == 2, 255)

    def nnunet(z, y, k=10):
        losses = F.cross_entropy(z, y, ignore_index=255, reduction="none").flatten()
        return losses.topk(int(losses.numel() * k / 100))[0].mean()

    ours = value_and_gradient(fastloss.TopKLoss(k=0.1, ignore_index=255, count_ignored=True), Z, labels)
    for found, expected in zip(ours, value_and_gradient(nnunet, Z, labels), strict=True):
        close(found, expected)
    assert not torch.allclose(fastloss.TopKLoss(k=0.1, ignore_index=255)(Z, labels), ours[0], rtol=1e-2)


@pytest.mark.parametrize(
    "loss", [fastloss.DiceCELoss(), fastloss.TopKLoss(), fastloss.DeepSupervision(fastloss.DiceLoss())]
)
def test_f11_logits_may_be_named_input(loss):
    """As torch's losses and MONAI's name them; compiled as well."""
    assert torch.equal(loss(input=Z, target=Y), loss(Z, Y))
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    assert torch.equal(compiled(input=Z, target=Y), loss(Z, Y))
    for tensors, named in (((Z,), {"target": Y}), ((), {"logits": Z, "target": Y})):
        with pytest.raises(TypeError, match="input: given besides logits, expected one of them"):
            loss(*tensors, input=Z, **named)


@pytest.mark.parametrize("option", ELSEWHERE)
def test_f12_options_of_other_libraries_are_answered_with_ours(option):
    names = [name for name in fastloss.__all__ if name.endswith("Loss") and name != "SegmentationLoss"]
    classes = [getattr(fastloss, name) for name in names]
    refused = 0
    for loss in classes:
        if option not in inspect.signature(loss).parameters:
            refused += 1
            with pytest.raises(TypeError, match=f"^{option}: is no option of .*Loss, expected "):
                loss(**{option: True})
    assert refused > 20


def test_f12b_what_the_answers_name_exists():
    """Options that a loss has, and classes."""
    names = {name for key in fastloss.__all__ if key.endswith("Loss") for name in option_names(getattr(fastloss, key))}
    for text in ELSEWHERE.values():
        for word in text.replace("(", " ").replace(",", " ").split():
            if word.endswith("Loss"):
                assert hasattr(fastloss, word)
            elif "=" in word:
                assert word.partition("=")[0] in names, text


def option_names(cls):
    return [
        name for base in cls.__mro__ if "__init__" in vars(base) for name in inspect.signature(base.__init__).parameters
    ]


def test_f13_volumes_of_several_sizes():
    """MONAI's decollated batches: a call for each, as the message says."""
    predictions, targets = [Z[0], Z[1, :, :5, :7]], [Y[0], Y[1, :5, :7]]
    with pytest.raises(TypeError, match=r"prediction: got a list of 2, expected .* prediction\[i\]\[None\]"):
        metrics.confusion_counts(predictions, targets, activation="softmax")
    with pytest.raises(TypeError, match="target: got a tuple of 2"):
        metrics.surface_distances(Z, tuple(targets), activation="softmax")
    scores, tables = metrics.Accumulator(), []
    for prediction, target in zip(predictions, targets, strict=True):
        tables.append(metrics.confusion_counts(prediction[None], target[None], activation="softmax").dice())
        scores.update(dice=tables[-1])
    close(torch.as_tensor(scores.compute()["dice"][0]), torch.cat(tables).mean(0))


@with_torch_distributed
def test_f14_and_f15_two_processes(tmp_path):
    """F14: Dice's sums of all processes beside a cross-entropy of each one's own, by ``gather_sums``. F15: a level of
    weight 0 under DistributedDataParallel, two steps."""
    torch.multiprocessing.spawn(_of_process, (str(tmp_path),), nprocs=2)
    shares = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    leaf = Z.clone().requires_grad_()
    dice = fastloss.DiceLoss(batch=True)(leaf, Y)
    entropies = [fastloss.CrossEntropyLoss()(leaf[rank : rank + 1], Y[rank : rank + 1]) for rank in range(2)]
    (dice + sum(entropies) / 2).backward()
    for share, entropy in zip(shares, entropies, strict=True):
        close(share["value"], dice.detach() + entropy.detach())
    close(
        torch.cat([share["gradient"] for share in shares]) / 2, leaf.grad, 1e-6
    )  # as DistributedDataParallel averages
    assert all(torch.equal(share["unused head"], torch.zeros_like(share["unused head"])) for share in shares)


def _of_process(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    logits, labels = Z[rank : rank + 1].clone().requires_grad_(), Y[rank : rank + 1]
    dice, entropy = fastloss.DiceLoss(batch=True), fastloss.CrossEntropyLoss()
    with fastloss.backend("reference"):
        terms = tuple(dict.fromkeys((*dice.terms, *entropy.terms)))
        sums = fastloss.voxel_sums(logits, labels, terms)  # one pass for both
        own, all_of = (dict(zip(terms, x.unbind(-1), strict=True)) for x in (sums, fastloss.gather_sums(sums)))
        value = dice.from_sums(all_of) + entropy.from_sums(own)
        value.backward()
        net = nn.parallel.DistributedDataParallel(_Heads())
        supervised = fastloss.DeepSupervision(fastloss.DiceLoss(), [1.0, 0.0])
        for _ in range(2):
            net.zero_grad()
            supervised(net(Z[rank : rank + 1]), labels).backward()
    with pytest.raises(TypeError, match="process_group: got None, expected 'world'"):
        fastloss.gather_sums(sums, None)
    found = {"value": value.detach(), "gradient": logits.grad, "unused head": net.module.coarse.weight.grad}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


class _Heads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.coarse = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return [self.fine(x), self.coarse(x[..., ::2, ::2])]


def test_f14_gather_sums_without_processes_is_named():
    with pytest.raises(RuntimeError, match=r"process_group: 'world', but torch\.distributed is not initialised"):
        fastloss.gather_sums(torch.ones(2, 3, 1))
    with pytest.raises(TypeError, match=r"sums: got torch\.int64 \[2\], expected a float tensor \[B, \.\.\.\]"):
        fastloss.gather_sums(torch.ones(2, dtype=torch.long))
