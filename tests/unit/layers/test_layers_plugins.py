import pytest
import torch
from torch import nn

from detector.build import Builder
from detector.errors import ConfigError
from detector.layers.context_block import ContextBlock, ContextBlockPlugin
from detector.layers.generalized_attention import (
    GeneralizedAttention,
    GeneralizedAttentionPlugin,
    far_keys,
    relative_embedding,
)
from detector.layers.plugins import PluginSpec, attach


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_fresh_layers_change_nothing():
    x = torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(ContextBlock(in_channels=8, ratio=0.5)(x), x)
    torch.testing.assert_close(GeneralizedAttention(in_channels=8, num_heads=2)(x), x)


def test_context_by_hand():
    block = ContextBlock(in_channels=2, ratio=1, pooling_type="avg", fusion_types=("channel_mul",))
    x = torch.randn(1, 2, 2, 2)
    torch.testing.assert_close(block(x), x * 0.5)  # sigmoid of the zero transform
    assert {k.split(".")[0] for k in block.state_dict()} == {"channel_mul_conv"}


def test_attention_pooling_follows_the_mask():
    block = ContextBlock(in_channels=1, ratio=1)
    with torch.no_grad():
        block.conv_mask.weight.fill_(100.0)  # all weight on the largest value
    x = torch.tensor([[[[1.0, 2.0], [5.0, 3.0]]]])
    assert block._context(x).item() == pytest.approx(5.0)


def test_context_block_refuses_unknown_settings():
    with pytest.raises(ConfigError, match="att, avg"):
        ContextBlock(in_channels=8, ratio=1, pooling_type="max")
    with pytest.raises(ConfigError, match="channel_add"):
        ContextBlock(in_channels=8, ratio=1, fusion_types=())


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("1000", {"query_conv", "key_conv"}),
        ("0100", {"query_conv", "appr_geom_fc_x", "appr_geom_fc_y"}),
        ("0010", {"key_conv", "appr_bias"}),
        ("0001", {"appr_geom_fc_x", "appr_geom_fc_y", "geom_bias"}),
        ("0000", set()),
    ],
)
def test_every_term_has_its_parameters(kind, keys):
    layer = GeneralizedAttention(in_channels=8, num_heads=2, attention_type=kind)
    found = {k.split(".")[0] for k in layer.state_dict()}
    assert found == keys | {"value_conv", "proj_conv", "gamma"}
    nn.init.ones_(layer.gamma)
    x = torch.randn(2, 8, 5, 6)
    assert layer(x).shape == x.shape
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))  # images do not depend on one another


def _naive(layer, x):
    """Energies term by term, one query and one key at a time."""
    heads, dim = layer.num_heads, layer.head_dim
    keys = layer.key_conv(x[..., ::2, ::2])[0]
    values = layer.value_conv(x[..., ::2, ::2])[0]
    query = layer.query_conv(x)[0]
    u, v = layer.appr_bias.view(heads, dim), layer.geom_bias.view(heads, dim)
    h, w = x.shape[2:]
    hk, wk = keys.shape[1:]
    root = 2**0.5
    settings = dict(q_stride=1, kv_stride=2, magnitude=1, dim=layer.in_channels_embedding, like=x)
    fx = layer.appr_geom_fc_x(relative_embedding(w, wk, **settings)) / root
    fy = layer.appr_geom_fc_y(relative_embedding(h, hk, **settings)) / root
    out = torch.zeros(heads * dim, h, w)
    for m in range(heads):
        part = slice(m * dim, (m + 1) * dim)
        for i in range(h):
            for j in range(w):
                q = query[part, i, j]
                energy = torch.stack(
                    [
                        (q + u[m]) @ keys[part, a, b] + (q + v[m]) @ (fx[j, b, part] + fy[i, a, part])
                        for a in range(hk)
                        for b in range(wk)
                    ]
                )
                out[part, i, j] = values[part].flatten(1) @ energy.softmax(0)
    return layer.gamma * layer.proj_conv(out[None]) + x


def test_all_terms_together_against_loops():
    layer = GeneralizedAttention(in_channels=8, num_heads=2)
    layer.in_channels_embedding = 8
    nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(1, 8, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), _naive(layer, x), rtol=1e-4, atol=1e-5)


def test_relative_embedding_by_hand():
    found = relative_embedding(3, 2, q_stride=1, kv_stride=2, magnitude=1, dim=4, like=torch.zeros(1))
    difference = torch.tensor([[0.0, -2], [1, -1], [2, 0]])
    torch.testing.assert_close(found, torch.stack((difference.sin(), difference.cos()), dim=2))


def test_a_range_hides_far_keys():
    hidden = far_keys(4, 2, spatial_range=0, kv_stride=2, device=torch.device("cpu"))
    # query q sees keys from floor(q / 2) to floor((q + 1) / 2)
    assert hidden.tolist() == [[False, True], [False, False], [True, False], [True, False]]
    layer = GeneralizedAttention(in_channels=8, num_heads=2, spatial_range=1)
    assert layer(torch.randn(1, 8, 6, 6)).isfinite().all()


def test_attention_type_is_checked():
    with pytest.raises(ConfigError, match="four digits"):
        GeneralizedAttention(in_channels=8, attention_type="111")


def test_a_query_stride_is_interpolated():
    layer = GeneralizedAttention(in_channels=8, num_heads=2, q_stride=2)
    assert layer(torch.randn(1, 8, 5, 7)).shape == (1, 8, 5, 7)


def test_plugins_from_a_config():
    node = {
        "cfg": {"type": "ContextBlock", "ratio": 0.25},
        "position": "after_conv3",
        "stages": (False, True),
    }
    spec = Builder().build(node, "model.backbone.plugins[0]", PluginSpec)
    assert spec == PluginSpec(
        cfg=ContextBlockPlugin(ratio=0.25), position="after_conv3", stages=(False, True)
    )
    assert [spec.in_stage(i) for i in (0, 1)] == [False, True]
    with pytest.raises(ConfigError, match="every stage"):
        spec.in_stage(2)


def test_plugins_that_do_not_fit():
    with pytest.raises(ConfigError, match="after_conv1"):
        PluginSpec(cfg=ContextBlockPlugin(ratio=1), position="before_conv1")
    with pytest.raises(ConfigError, match="expected a plugin"):
        PluginSpec(cfg=nn.ReLU(), position="after_conv1")


def test_two_of_a_kind_need_a_postfix():
    first = PluginSpec(cfg=GeneralizedAttentionPlugin(num_heads=2), position="after_conv2")
    second = PluginSpec(cfg=GeneralizedAttentionPlugin(num_heads=2, postfix=1), position="after_conv2")
    names = attach(nn.Module(), (first, second), "after_conv2", 8)
    assert names == ["gen_attention_block", "gen_attention_block1"]
    with pytest.raises(ConfigError, match="postfix"):
        attach(nn.Module(), (first, first), "after_conv2", 8)
