import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy

from pffdst.core.inputs import ImageInputs
from pffdst.data.samples import ImageSet
from pffdst.metrics.evaluate import Evaluator

MEAN, STD, CLIENTS = (0.3053,), (0.3764,), 40


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images * 15.9375).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(data.target)
    # A skewed owner: some clients hold hundreds of samples, some none.
    draw = torch.rand(len(labels), generator=torch.Generator().manual_seed(0))
    owner = (draw.pow(3) * CLIENTS).long()
    owner[owner == 7] = 8
    return images[:600], labels[:600], owner[:600]


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(72, 10),
        )


def evaluator(digits, **options):
    images, labels, owner = digits
    return Evaluator(ImageSet(images, labels), owner, CLIENTS, ImageInputs((1, 8, 8), MEAN, STD), **options)


def slow(model, digits):
    """A pass per client, the obvious way: accuracies by client, pooled accuracy, pooled loss."""
    images, labels, owner = digits
    model.eval()
    by_client, hits, loss = {}, 0, 0.0
    for client in range(CLIENTS):
        mine = owner == client
        if mine.any():
            logits = model((images[mine].float() / 255 - MEAN[0]) / STD[0])
            correct = int((logits.argmax(1) == labels[mine]).sum())
            by_client[client] = correct / int(mine.sum())
            hits += correct
            loss += cross_entropy(logits, labels[mine], reduction="sum").item()
    return by_client, hits / len(labels), loss / len(labels)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("batch_size", [1, 37, 600, 10_000])
def test_one_pass_equals_a_pass_per_client(model, digits, channels_last, batch_size):
    got = evaluator(digits, channels_last=channels_last, batch_size=batch_size).evaluate(model, "cpu")
    by_client, pooled, loss = slow(model, digits)
    assert got.acc_global == pooled
    assert got.clients_counted == len(by_client) < CLIENTS
    assert got.acc_client_mean == pytest.approx(sum(by_client.values()) / len(by_client), abs=1e-12)
    assert got.loss_global == pytest.approx(loss, rel=1e-5)
    for client, accuracy in enumerate(got.client_accuracies.tolist()):
        assert math.isnan(accuracy) if client not in by_client else accuracy == by_client[client]


def test_pooled_accuracy_is_the_sample_weighted_mean_of_the_clients(model, digits):
    got = evaluator(digits).evaluate(model)
    held = torch.bincount(digits[2], minlength=CLIENTS)
    assert got.acc_global == pytest.approx(
        float((got.client_accuracies.nan_to_num() * held).sum() / held.sum()), abs=1e-12
    )


def test_agrees_with_torchmetrics(model, digits):
    images, labels, _ = digits
    got = evaluator(digits).evaluate(model)
    metric = MulticlassAccuracy(num_classes=10, average="micro")
    logits = model.eval()((images.float() / 255 - MEAN[0]) / STD[0])
    assert got.acc_global == pytest.approx(metric(logits, labels).item(), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_images_are_given_in_the_model_s_own_dtype(model, digits, dtype):
    seen = []
    model.to(dtype)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    got = evaluator(digits).evaluate(model)
    assert set(seen) == {dtype}
    assert got.acc_global == slow(model.float(), digits)[1]


def test_leaves_the_model_and_the_test_set_as_they_were(model, digits):
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = digits[0].clone()
    evaluator(digits).evaluate(model)
    assert [module.training for module in model] == [True, False, True, True, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(digits[0], images)


def test_the_training_flag_comes_back_after_an_error(digits):
    broken = nn.Sequential(nn.Linear(3, 10)).train()
    with pytest.raises(RuntimeError):
        evaluator(digits).evaluate(broken)
    assert broken.training


def test_evaluating_twice_gives_the_same(model, digits):
    one = evaluator(digits)
    assert one.evaluate(model).acc_client_mean == one.evaluate(model).acc_client_mean


def test_a_diverged_model_is_scored_not_refused(model, digits):
    model[-1].weight.data.fill_(math.nan)
    got = evaluator(digits).evaluate(model)
    assert math.isnan(got.loss_global)
    assert 0.0 <= got.acc_global <= 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i, y, o: (i[:0], y[:0], o[:0]), "at least one sample"),
        (lambda i, y, o: (i, y, o[:-1]), "`owner` to have shape \\[600\\]"),
        (lambda i, y, o: (i, y, o + CLIENTS), "`owner` to lie in \\[0, 40\\)"),
        (lambda i, y, o: (i, y, o - CLIENTS), "`owner` to lie in"),
    ],
)
def test_tensors_that_do_not_fit_are_named(digits, change, message):
    with pytest.raises(ValueError, match=message):
        evaluator(change(*digits))
