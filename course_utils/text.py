"""A CLIP text encoder in pieces, and where the words of a prompt stand among its tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from course_utils.messages import tr


@dataclass(frozen=True)
class Layer:
    """One layer of the encoder: attention (query, key, value, out) and a perceptron (up, down), with norms.

    All are D wide but the perceptron's inside.
    """

    norm1: nn.LayerNorm
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    norm2: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear


@dataclass(frozen=True)
class Pieces:
    """The encoder as modules of PyTorch: embeddings of tokens (V, D) and positions (77, D), layers, a norm.

    heads: of each attention, so D / heads numbers wide. activation: between `up` and `down`.
    """

    tokens: nn.Embedding
    positions: nn.Embedding
    layers: tuple[Layer, ...]
    final_norm: nn.LayerNorm
    heads: int
    activation: Callable[[Tensor], Tensor]


# Layer's names -> those of Transformers
_IN_A_LAYER = {
    "norm1": "layer_norm1",
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}


def pieces(text_encoder) -> Pieces:
    """Take a `CLIPTextModel` of Transformers 4.51 or newer apart; nothing is copied.

    The pieces are modules of PyTorch, which take their input by place: so no argument can be renamed and then
    be ignored, as happened to the causal mask. Raises AttributeError if this Transformers calls a piece by
    another name, or if it has weights that are not among the pieces.
    """
    from transformers.activations import ACT2FN

    model = getattr(text_encoder, "text_model", text_encoder)  # version 4 has one more shell
    layers = tuple(
        Layer(**{ours: _piece(layer, theirs) for ours, theirs in _IN_A_LAYER.items()})
        for layer in _piece(model, "encoder.layers")
    )
    found = Pieces(
        _piece(model, "embeddings.token_embedding"),
        _piece(model, "embeddings.position_embedding"),
        layers,
        _piece(model, "final_layer_norm"),
        text_encoder.config.num_attention_heads,
        ACT2FN[text_encoder.config.hidden_act],
    )
    modules = [
        found.tokens,
        found.positions,
        found.final_norm,
        *(m for one in layers for m in vars(one).values()),
    ]
    known = {id(weight) for module in modules for weight in module.parameters()}
    more = [name for name, weight in text_encoder.named_parameters() if id(weight) not in known]
    if more:
        raise _unlike(tr("with the weights {weights} besides", weights=", ".join(more)))
    return found


def _piece(module, path):
    for name in path.split("."):
        if not hasattr(module, name):
            raise _unlike(tr("without {path!r}", path=path))
        module = getattr(module, name)
    return module


def _unlike(what):
    import transformers

    return AttributeError(
        tr(
            "got a text encoder of Transformers {version} {what}, expected the CLIPTextModel of versions "
            "4.51 to 5: install the version in the course's constraints.txt.",
            version=transformers.__version__,
            what=what,
        )
    )


def word_places(tokenizer, prompt: str) -> list[tuple[str, list[int]]]:
    """Each word of a prompt with the places of its tokens; place 0 is the start token.

    Words are what spaces separate. Raises ValueError for a prompt that the tokeniser would cut off.
    """
    words, ends = [], 1
    for word in prompt.split():
        count = len(tokenizer(word, add_special_tokens=False).input_ids)
        words.append((word, list(range(ends, ends + count))))
        ends += count
    if ends + 1 > tokenizer.model_max_length:
        raise ValueError(
            tr(
                "got a prompt of {count} tokens, expected at most {most}: shorten it.",
                count=ends + 1,
                most=tokenizer.model_max_length,
            )
        )
    return words
