"""Muon for matrices, AdamW for the rest."""

import copy

import pytest
import torch
from torch import nn

from dumenet.optimizer import MATRIX_RATE, make_optimizer


@pytest.fixture
def net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 20), nn.LayerNorm(20), nn.ReLU(), nn.Linear(20, 20), nn.Linear(20, 40))
    net(torch.randn(64, 12)).square().sum().backward()
    return net


def test_a_matrix_steps_along_all_its_directions_alike(net):
    before, optimizer = copy.deepcopy(net), make_optimizer(net, "muon", 1e-3, 0.0)
    optimizer.step()
    for i, stretch in ((0, (20 / 12) ** 0.5), (3, 1), (4, 2**0.5)):
        step, gradient = before[i].weight - net[i].weight, net[i].weight.grad
        sizes, of_gradient = (torch.linalg.svdvals(m.detach()) for m in (step, gradient))
        assert 0.7 < sizes.median() / (stretch * 1e-3 * MATRIX_RATE) < 1.3
        assert of_gradient.max() / of_gradient.median() > 2 > sizes.max() / sizes.median()
        assert (step * gradient).sum() > 0  # downhill
    there = net[0].weight.clone()
    net[0].weight.grad.zero_()
    optimizer.step()
    assert not torch.equal(net[0].weight, there)  # momentum


def test_all_else_steps_by_adamw(net):
    twin = copy.deepcopy(net)
    for a, b in zip(net.parameters(), twin.parameters()):
        b.grad = a.grad.clone()
    for name, model in (("muon", net), ("adamw", twin)):
        optimizer = make_optimizer(model, name, 1e-3, 1e-2)
        optimizer.step()
        optimizer.step()
    for name, value in net.named_parameters():
        is_matrix = value.ndim == 2
        assert torch.allclose(value, twin.get_parameter(name), rtol=1e-5, atol=1e-7) != is_matrix, name


def test_weights_decay():
    idle = nn.Linear(3, 3)
    idle(torch.zeros(1, 3)).sum().backward()  # the weight's gradient is 0, so that it only decays
    before = idle.weight.clone()
    make_optimizer(idle, "muon", 1e-3, 0.5).step()
    assert torch.allclose(idle.weight, before * (1 - 1e-3 * MATRIX_RATE * 0.5))


def test_a_model_without_linear_layers_has_adamw_alone():
    conv = nn.Conv2d(2, 2, 1)
    assert len(make_optimizer(conv, "muon", 1e-3, 0.0).param_groups) == 1


def test_where_bf16_is_fast_the_steps_are_made_in_it(net):
    twin = copy.deepcopy(net)
    for a, b in zip(net.parameters(), twin.parameters()):
        b.grad = a.grad.clone()
    for model, bf16 in ((net, False), (twin, True)):
        make_optimizer(model, "muon", 1e-3, 0.0, bf16).step()
    assert not torch.equal(net[0].weight, twin[0].weight) and twin[0].weight.dtype == torch.float32
    assert torch.allclose(net[0].weight, twin[0].weight, atol=1e-3)  # of a step of 2e-2
