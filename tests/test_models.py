"""The networks: their formulas against other people's code, and each point where text and release differ.

Shapes: B images, N tokens, C feature channels, D hidden size, M memory slots.
"""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import nn

from dumenet.config import make_config
from dumenet.errors import DumenetError
from dumenet.models import ChannelMemory, Fusion, PositionGaussian, SpatialMemory, build_model, ssim
from dumenet.models.layers import (
    Attention,
    DecoderLayer,
    EncoderLayer,
    LearnedPosition,
    jitter,
    map_of,
    neighbour_mask,
    tokens_of,
)
from dumenet.models.spread import fit_spread

B, GRID, STAGES = 2, 5, (3, 5)  # N must not divide D: else a released "map" lies inside one token, and nothing mixes
N, C, D = GRID * GRID, sum(STAGES), 16
FUSIONS = ("concat", "add", "multiply", "attention", "gate", "add_linear", "weighted_sum")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def model(tiny):
    """A tiny model in eval mode: ``model(fusion_mode="add")``."""

    def make(**settings):
        torch.manual_seed(0)
        return build_model(tiny(**{f"model__{k}": v for k, v in settings.items()}).model, STAGES, GRID).eval()

    return make


def features(batch=B):
    return torch.randn(batch, C, GRID, GRID)


# --- what comes back


def test_a_gpus_attention_is_the_written_out_one(monkeypatch):
    layer, x, mask = Attention(D, 4, 0.0).eval(), torch.randn(B, N, D), neighbour_mask(GRID, 3)
    written_out = layer(x, x, x, mask)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    assert torch.allclose(layer(x, x, x, mask), written_out, atol=1e-6)


def test_weights_start_as_the_released_codes_do_and_positions_from_a_normal():
    model = build_model(make_config().model, (24, 40, 112), 14)
    dim, channels = model.project_in.weight.shape
    for linear, expected in (
        (model.project_in, 2 / (channels + dim)),
        (model.encoder[0].attention.query, 1 / (2 * dim)),
    ):
        assert linear.weight.std().item() == pytest.approx(expected**0.5, rel=0.05) and not linear.bias.any()
    assert model.position.row.std().item() == pytest.approx(1, rel=0.1) and abs(model.position.row.mean()) < 0.1


@pytest.mark.parametrize("name", ["dumenet", "uniad", "mlp", "conv", "gaussian"])
def test_every_model_gives_a_reconstruction(model, name):
    x = features()
    out = model(name=name)(x)
    assert out.features.shape == out.target.shape == x.shape
    assert out.anomaly_map.shape == (B, GRID, GRID)
    distance = (out.features - out.target).square().sum(1).sqrt()
    assert torch.allclose(out.anomaly_map, distance, atol=1e-5)


@pytest.mark.parametrize("mode", ["both", "channel", "spatial", "none"])
def test_memory_mode_decides_which_weights_there_are(model, mode):
    out = model(memory_mode=mode)(features())
    for name, weights, shape in (
        ("channel", out.channel_weights, (B, N, 6)),
        ("spatial", out.spatial_weights, (B, D, 5)),
    ):
        assert (weights is not None) == (mode in ("both", name))
        if weights is not None:
            assert weights.shape == shape and (weights >= 0).all()
            assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-6)


@pytest.mark.parametrize(
    ("mode", "fusion"),
    [("both", fusion) for fusion in FUSIONS] + [(mode, "concat") for mode in ("channel", "spatial", "none")],
)
def test_every_memory_mode_and_fusion_learns(model, mode, fusion):
    net, x = model(memory_mode=mode, fusion_mode=fusion), features(8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        out = net(x)
        loss = nn.functional.mse_loss(out.features, out.target)
        optimizer.zero_grad()
        loss.backward()
        gradients = [p.grad for p in net.parameters()]
        assert all(g is not None and g.isfinite().all() for g in gradients)
        if not losses:
            idle = {n for n, p in net.named_parameters() if not p.grad.any() and not n.endswith("key.bias")}
            assert not idle  # every parameter takes part; softmax cancels a key's bias
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_neighbours_in_a_batch_change_a_score_in_the_release_only(model):
    x, others = features(4), features(4)
    others[0] = x[0]
    for settings in ({}, {"decoder_reads": "encoder"}, {"name": "uniad"}):
        net = model(**settings)
        assert torch.allclose(net(x).anomaly_map[0], net(others).anomaly_map[0], atol=1e-6)
        assert torch.allclose(net(x).anomaly_map[0], net(x[:1]).anomaly_map[0], atol=1e-6)
    net = model(spatial_layout="released")
    assert (net(x).anomaly_map[0] - net(others).anomaly_map[0]).abs().max() > 1e-5


# --- SSIM and the memories


def test_ssim_is_that_of_scikit_image():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (4, 13, 13)), rng.uniform(-1, 2, (3, 13, 13))
    ours = ssim(torch.from_numpy(a).flatten(1), torch.from_numpy(b).flatten(1))
    settings = {"win_size": 13, "use_sample_covariance": True, "data_range": 1, "K1": 0.1, "K2": 0.03**0.5}
    theirs = [[structural_similarity(x, y, **settings) for y in b] for x in a]
    assert np.abs(ours.numpy() - theirs).max() < 1e-10


def test_channel_read_is_scaled_attention_over_slots():
    memory, x = ChannelMemory(7, D), torch.randn(B, N, D)
    read, weights = memory(x)
    query, key, value = (layer.weight.T for layer in (memory.query, memory.key, memory.value))
    expected = torch.softmax((x @ query) @ (memory.slots @ key).T / D**0.5, -1)
    assert torch.allclose(weights, expected, atol=1e-6)
    assert torch.allclose(read, expected @ memory.slots @ value, atol=1e-6)


@pytest.mark.parametrize("similarity", ["ssim", "dot"])
def test_spatial_read_looks_at_one_hidden_channel_of_one_image(similarity):
    memory, x = SpatialMemory(7, GRID, similarity=similarity), torch.randn(B, N, D)
    read, weights = memory(x)
    query, keys = memory.query(x[1, None, :, 3]), memory.key(memory.slots)  # (1, N): channel 3 of image 1, row by row
    expected = ssim(query, keys) if similarity == "ssim" else query @ keys.T / N**0.5
    assert torch.allclose(weights[1, 3], expected.softmax(-1)[0], atol=1e-6)
    assert torch.allclose(read[1, :, 3], weights[1, 3] @ memory.value(memory.slots), atol=1e-6)


def test_released_layout_is_the_released_view():
    memory, x = SpatialMemory(7, GRID, "released"), torch.randn(B, N, D)
    tokens = x.permute(1, 0, 2).contiguous()  # (N, B, D), as the released code holds them
    maps = tokens.view(D * B, GRID, GRID)  # its view, nothing permuted
    expected = ssim(memory.query(maps.flatten(1)), memory.key(memory.slots)).softmax(-1)
    read = expected @ memory.value(memory.slots)  # (D * B, N)
    back = read.view(D, B, N).permute(2, 1, 0)  # (N, B, D)
    ours, weights = memory(x)
    assert torch.allclose(ours, back.permute(1, 0, 2), atol=1e-6)
    assert torch.allclose(weights, expected.view(D, B, 7).transpose(0, 1), atol=1e-6)
    straight = SpatialMemory(7, GRID)
    straight.load_state_dict(memory.state_dict())
    assert (straight(x)[0] - ours).abs().max() > 1e-3


# --- fusion


def reads():
    return torch.randn(B, N, D), torch.randn(B, N, D), torch.randn(B, N, D)


def test_fusions_by_their_formulas():
    token, c, s = reads()
    both = torch.cat([c, s], -1)
    layer = {mode: Fusion(mode, D) for mode in FUSIONS}
    gate = torch.sigmoid(layer["gate"].linear(both))
    query, key = layer["attention"].query(token), layer["attention"].key
    share = torch.sigmoid((query * (key(c) - key(s))).sum(-1, keepdim=True) / D**0.5)  # a softmax over two
    layer["weighted_sum"].alpha.data.fill_(0.3)
    expected = {
        "concat": layer["concat"].linear(both),
        "add": c + s,
        "multiply": c * s,
        "attention": share * c + (1 - share) * s,
        "gate": gate * c + (1 - gate) * s,
        "add_linear": layer["add_linear"].linear(c + s),
        "weighted_sum": 0.3 * c + 0.7 * s,
    }
    for mode, value in expected.items():
        assert torch.allclose(layer[mode](token, c, s), value, atol=1e-6), mode


# --- the continuous query


@pytest.mark.parametrize("reads", ["memory", "encoder"])
def test_only_the_released_decoder_sees_the_encoder_past_the_memory(model, monkeypatch, reads):
    net, memory = model(decoder_reads=reads, decoder_layers=3), torch.randn(B, N, D)
    monkeypatch.setattr(net, "read", lambda hidden: (memory, None, None))
    change = (net(features()).features - net(features()).features).abs().max()
    assert change == 0 if reads == "memory" else change > 1e-3


def test_every_decoder_layer_reads_the_memory(model):
    net, seen = model(decoder_layers=3), []
    for layer in net.decoder:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    memory = []
    net.fusion.register_forward_hook(lambda _, __, out: memory.append(out))
    net(features())
    assert len(seen) == 3 and all(source is memory[0] for source in seen)


# --- layers


def test_attention_drops_weights_in_training_alone():
    layer, x = Attention(D, 4, 0.3).train(), torch.randn(2, N, D)
    assert not torch.allclose(layer(x, x, x), layer(x, x, x), atol=1e-2)
    layer.eval()
    assert torch.equal(layer(x, x, x), layer(x, x, x))


def copy(ours, theirs, **attentions):
    """The weights of a layer of ours in torch's, whose `attentions` have other names; all are made random first."""
    for name, own in attentions.items():
        own, other = getattr(ours, own), getattr(theirs, name)
        parts = own.query, own.key, own.value
        for layer in (*parts, own.out):
            nn.init.normal_(layer.bias)
        other.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
        other.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
        other.out_proj.load_state_dict(own.out.state_dict())
    theirs.linear1.load_state_dict(ours.ffn[0].state_dict())
    theirs.linear2.load_state_dict(ours.ffn[3].state_dict())
    for name, norm in ours.named_children():
        if name.startswith("norm"):
            nn.init.normal_(norm.weight)
            getattr(theirs, name).load_state_dict(norm.state_dict())


def test_layers_are_torchs_where_there_is_no_position():
    (x, memory, _), nowhere, plain = reads(), torch.zeros(N, D), {"batch_first": True, "norm_first": False}
    hidden = (torch.rand(N, N) < 0.3).fill_diagonal_(False)
    ours, theirs = EncoderLayer(D, 4, 32, 0.0), nn.TransformerEncoderLayer(D, 4, 32, 0.0, **plain)
    copy(ours, theirs, self_attn="attention")
    assert torch.allclose(ours(x, nowhere, None), theirs(x), atol=1e-5)
    assert torch.allclose(ours(x, nowhere, ~hidden), theirs(x, hidden), atol=1e-5)
    ours, theirs = DecoderLayer(D, 4, 32, 0.0), nn.TransformerDecoderLayer(D, 4, 32, 0.0, **plain)
    copy(ours, theirs, self_attn="attention1", multihead_attn="attention2")
    assert torch.allclose(ours(x, x, memory, nowhere, None, None), theirs(x, memory), atol=1e-5)


def test_positions_reach_queries_and_keys_but_not_values():
    layer, x, position = EncoderLayer(D, 4, 32, 0.0), torch.randn(B, N, D), torch.randn(N, D)
    nn.init.zeros_(layer.attention.query.weight)  # attend evenly, so that only values are left
    nn.init.zeros_(layer.attention.query.bias)
    assert torch.allclose(layer(x, position, None), layer(x, torch.zeros(N, D), None), atol=1e-5)
    layer = EncoderLayer(D, 4, 32, 0.0)
    assert (layer(x, position, None) - layer(x, torch.zeros(N, D), None)).abs().max() > 1e-3


def test_position_tells_row_and_column_apart():
    position = LearnedPosition(3, 8)
    table = position().view(3, 3, 8)  # (row, column, D)
    for row in range(3):
        for column in range(3):
            assert torch.equal(table[row, column], torch.cat([position.column[column], position.row[row]]))


def test_tokens_and_maps_are_each_others_inverse():
    x = features()
    tokens = tokens_of(x)
    assert torch.equal(tokens[1, 2 * GRID + 3], x[1, :, 2, 3])
    assert torch.equal(map_of(tokens, x), x)


def test_neighbour_mask_hides_exactly_the_square_and_never_all():
    row, column = np.divmod(np.arange(36), 6)
    apart = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column))  # (36, 36), in positions
    for size, reach in ((3, 1), (5, 2)):  # of 5 x 5 one row and one column are left to a token in the middle
        assert np.array_equal(neighbour_mask(6, size), apart > reach)
    with pytest.raises(DumenetError, match="neighbour mask of 7 x 7 hides the whole 6 x 6"):
        neighbour_mask(6, 7)


@pytest.mark.parametrize("name", ["dumenet", "uniad"])
@pytest.mark.parametrize("attention", ["encoder", "decoder_first", "decoder_second"])
def test_neighbour_mask_reaches_the_attention_it_names(model, name, attention):
    x = features()
    masked = model(name=name, neighbour_mask=(attention,), neighbour_size=3)
    assert (masked(x).features - model(name=name)(x).features).abs().max() > 1e-5
    kinds, seen = {"attention": "encoder", "attention1": "decoder_first", "attention2": "decoder_second"}, []
    for path, module in masked.named_modules():
        if isinstance(module, Attention):
            kind = kinds[path.split(".")[-1]]
            module.register_forward_pre_hook(lambda _, args, kind=kind: seen.append((kind, args[3] is not None)))
    masked(x)
    assert set(seen) == {(kind, kind == attention) for kind in kinds.values()}


# --- input and target


def test_jitter_scales_with_the_tokens_length():
    tokens = torch.randn(1, 2, 2000)
    tokens[0, 1] *= 5
    noise = jitter(tokens, 20.0) - tokens
    expected = tokens.norm(dim=-1) / 2000 * 20
    assert torch.allclose(noise.std(-1), expected, rtol=0.06)
    assert torch.equal(jitter(tokens, 0.0), tokens)


@pytest.mark.parametrize("name", ["dumenet", "uniad"])
def test_jitter_only_in_training(model, name):
    x, net = features(), model(name=name, dropout=0.0)
    assert torch.equal(net(x).features, net(x).features)
    net.train()
    assert not torch.equal(net(x).features, net(x).features)
    assert torch.equal(net(x).target, net(x).target)  # the target stays clean
    still = model(name=name, dropout=0.0, jitter=0.0).train()
    assert torch.equal(still(x).features, still(x).features)


@pytest.mark.parametrize("name", ["dumenet", "uniad", "mlp", "conv"])
def test_targets(model, name):
    x = features()
    shift = torch.randn(C, 1, 1)
    for target, expected in (("raw", x), ("sigmoid", x.sigmoid()), ("standardised", (x - shift) / 2)):
        net = model(name=name, target=target)
        if target == "standardised":
            net.standardise.mean.copy_(shift)
            net.standardise.std.fill_(2)
        out = net(x)
        assert torch.allclose(out.target, expected, atol=1e-6), target
        assert (out.features.min() > 0 and out.features.max() < 1) == (target == "sigmoid")


def test_cbam_is_trained_trains_the_target_and_keeps_stages_apart(model):
    x, plain, net = features(), model(), model(neck="cbam")
    assert torch.equal(plain(x).target, x)
    out = net(x)
    assert out.target.shape == x.shape and (out.target - x).abs().max() > 0.1
    out.target.square().mean().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.neck.parameters() if p.dim() > 1)
    assert out.target.abs().mean() < x.abs().mean()  # gates lie below 1: the target can shrink
    other = x.clone()
    other[:, : STAGES[0]] += 1
    assert torch.equal(out.target[:, STAGES[0] :], net(other).target[:, STAGES[0] :])


# --- the other models


def test_uniad_has_its_published_size():
    published = {"hidden_dim": 256, "encoder_layers": 4, "decoder_layers": 4, "heads": 8, "ffn_dim": 1024}
    config = make_config(model__name="uniad", **{f"model__{k}": v for k, v in published.items()}).model
    net = build_model(config, (24, 32, 56, 160), 14)
    assert sum(p.numel() for p in net.parameters()) == 7_717_392


def test_uniads_decoder_starts_from_learned_queries(model):
    net, seen, outs, encoded = model(name="uniad", decoder_layers=2), [], [], []
    for layer in net.decoder:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args))
        layer.register_forward_hook(lambda _, __, out: outs.append(out))
    net.encoder[-1].register_forward_hook(lambda _, __, out: encoded.append(out))
    net(features())
    for i, (query, first, second, *_) in enumerate(seen):
        assert torch.equal(query, net.queries[i].expand(B, N, D))
        assert first is encoded[0]
        assert second is (encoded[0] if i == 0 else outs[0])


def test_mlp_is_blind_to_its_neighbours_and_conv_is_not(model):
    x = features(1)
    moved = x.clone()
    moved[0, :, 0, 0] += 1
    for name, sees in (("mlp", False), ("conv", True)):
        net = model(name=name)
        assert bool((net(x).features != net(moved).features)[0, :, 0, 1].any()) == sees


def test_position_gaussian_is_the_mean_in_units_of_each_channel(tiny):
    net = PositionGaussian(tiny().model, STAGES, GRID)
    x = features(10) * 3 + 1
    array = x.double().numpy()
    mean, std = (part(axis=(0, 2, 3), keepdims=True) for part in (array.mean, array.std))
    net.standardise.fit(*(torch.tensor(part[0]) for part in (mean, std)))
    net.fit(x.split(4))
    assert np.allclose(net.mean, (array.mean(0) - mean[0]) / std[0], atol=1e-5)
    expected = np.sqrt((((array - array.mean(0)) / std) ** 2).sum(1))  # (B, H, W)
    assert np.allclose(net(x).anomaly_map, expected, rtol=1e-3)


def test_a_dark_background_does_not_outshine_a_defect(tiny):
    """A position that hardly varies keeps half of what is usual elsewhere: its own deviation is no unit."""
    net = PositionGaussian(tiny().model, (4,), 6)
    x = torch.randn(60, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, :, :, 3:] *= 0.1  # the background
    normal, new = x[:40], x[40:].clone()
    new[:, :, :, 3:] *= 5  # photographed a little differently
    new[:, :, 1, 1] += 4
    net.standardise.fit(normal.mean((0, 2, 3))[:, None, None], normal.std((0, 2, 3))[:, None, None])
    net.fit([normal])
    spread, _ = fit_spread(net(normal).error, normal.mean((2, 3)), ["all"] * 40)
    lengths = spread(net(new).error, torch.zeros(20, dtype=torch.long)).flatten(1)  # (B, H W)
    assert (lengths.argmax(1) == 7).all()
