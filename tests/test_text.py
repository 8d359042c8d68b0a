"""The text encoder in pieces: all of it, as it is, and one sentence when Transformers has changed."""

import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from course_utils import checkpoints, text

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_act="gelu",
        eos_token_id=29,
    )
    return CLIPTextModel(config).eval()


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(checkpoints.verified("clip"))


def test_the_pieces_are_the_encoders_own_modules(encoder):
    pieces = text.pieces(encoder)
    assert pieces.tokens is encoder.get_input_embeddings()
    assert (pieces.heads, len(pieces.layers), pieces.positions.weight.shape) == (4, 2, (77, 16))
    kinds = {name: type(module) for name, module in vars(pieces.layers[1]).items()}
    assert all(
        kind is (nn.LayerNorm if name.startswith("norm") else nn.Linear) for name, kind in kinds.items()
    )
    x = torch.linspace(-2, 2, 9)
    assert torch.allclose(pieces.activation(x), nn.functional.gelu(x))


def test_the_pieces_put_together_are_the_encoder_and_only_with_the_causal_mask(encoder):
    pieces, tokens = text.pieces(encoder), torch.tensor([[28, 5, 7, 7, 29], [28, 1, 29, 29, 29]])
    with torch.no_grad():
        wanted = encoder(tokens).last_hidden_state
        causal = torch.full((5, 5), -torch.inf).triu(1)
        assert (together(pieces, tokens, causal) - wanted).abs().max() < 1e-5
        unmasked = together(pieces, tokens, torch.zeros(5, 5))
    assert (unmasked - wanted).abs().amax((0, 2)).min() > 1e-3, "a place is as it was"


def together(pieces, tokens, mask):
    """By PyTorch's own multi-head attention."""
    x = pieces.tokens(tokens) + pieces.positions.weight[: tokens.shape[1]]
    for layer in pieces.layers:
        h = layer.norm1(x)
        projections = (layer.query, layer.key, layer.value)
        attended, _ = nn.functional.multi_head_attention_forward(
            *[h.transpose(0, 1)] * 3,
            embed_dim_to_check=h.shape[-1],
            num_heads=pieces.heads,
            in_proj_weight=torch.cat([one.weight for one in projections]),
            in_proj_bias=torch.cat([one.bias for one in projections]),
            bias_k=None,
            bias_v=None,
            add_zero_attn=False,
            dropout_p=0.0,
            out_proj_weight=layer.out.weight,
            out_proj_bias=layer.out.bias,
            attn_mask=mask,
        )
        x = x + attended.transpose(0, 1)
        x = x + layer.down(pieces.activation(layer.up(layer.norm2(x))))
    return pieces.final_norm(x)


def shell(encoder):
    return getattr(encoder, "text_model", encoder)


def test_a_renamed_piece_is_named(encoder):
    attention = shell(encoder).encoder.layers[0].self_attn
    attention.to_q = attention.q_proj
    del attention.q_proj
    with pytest.raises(AttributeError, match=r"Transformers \d.* without 'self_attn.q_proj', expected"):
        text.pieces(encoder)


def test_a_weight_that_is_no_piece_is_named(encoder):
    shell(encoder).encoder.layers[1].gate = nn.Linear(2, 2, bias=False)
    with pytest.raises(AttributeError, match=r"with the weights .*layers.1.gate.weight besides, expected"):
        text.pieces(encoder)


def test_the_places_of_words_are_those_of_their_tokens(tokenizer):
    prompt = "a Schmetterling and a fish, both blue"
    ids = tokenizer(prompt).input_ids
    places = text.word_places(tokenizer, prompt)
    assert [word for word, _ in places] == prompt.split()
    assert sum((at for _, at in places), []) == list(range(1, len(ids) - 1))
    for word, at in places:
        assert tokenizer.decode([ids[i] for i in at]).replace(" ", "") == word.lower()


def test_a_prompt_too_long_is_refused(tokenizer):
    assert len(text.word_places(tokenizer, "fish " * 75)) == 75
    with pytest.raises(ValueError, match="got a prompt of 78 tokens, expected at most 77"):
        text.word_places(tokenizer, "fish " * 76)
