"""Features put together by hand from the parts of each family's towers, with the prompts in between."""

import torch


@torch.no_grad()
def text_by_hand(model, input_ids, attention_mask=None, mudpt_condition=None, prompts=None):
    """The text features of an adapted model. `prompts`: those of each layer; None asks the adapter for them."""
    if prompts is None:
        prompts = model.prompt_learner.prompts("text", 0, condition=mudpt_condition)
    with model.disable_adapter():
        return TEXTS[model.config.model_type](model, input_ids, attention_mask, prompts)


@torch.no_grad()
def vision_by_hand(model, pixel_values, prompts=None, **options):
    """The image features of an adapted model, likewise. `options`: arguments of the tower's embeddings."""
    if prompts is None:
        prompts = model.prompt_learner.prompts("vision", 0)
    with model.disable_adapter():
        return VISIONS[model.config.model_type](model, pixel_values, prompts, **options)


def with_input_prompts(tokens, prompts, place):
    """The tokens (B, L, d) with the prompts of the input, if there are any, at `place`."""
    if 0 not in prompts:
        return tokens
    return torch.cat([tokens[:, :place], prompts[0].expand(len(tokens), -1, -1), tokens[:, place:]], dim=1)


def through_layers(layers, hidden, prompts, place, mask=None, keep=False):
    """
    The last hidden states, without the prompts unless `keep`. Each layer gets its prompts at `place`: inserted before
    the first of them, overwritten before the others. `mask` gives the mask of a layer, from the number of prompts.
    """
    present = prompts[0].shape[1] if 0 in prompts else 0
    for index, layer in enumerate(layers):
        if index > 0 and index in prompts:
            own = prompts[index].expand(len(hidden), -1, -1)
            hidden = torch.cat([hidden[:, :place], own, hidden[:, place + present :]], dim=1)
            present = own.shape[1]
        hidden = layer(hidden, None if mask is None else mask(present))
    return hidden if keep else torch.cat([hidden[:, :place], hidden[:, place + present :]], dim=1)


def clip_text(model, ids, attention_mask, prompts):
    def causal(n):
        return torch.full((ids.shape[1] + n,) * 2, float("-inf")).triu(1)[None, None]

    tower, place = model.text_model, 1  # behind BOS
    hidden = with_input_prompts(tower.embeddings.token_embedding(ids), prompts, place)
    hidden = hidden + tower.embeddings.position_embedding.weight[: hidden.shape[1]]
    hidden = tower.final_layer_norm(through_layers(tower.encoder.layers, hidden, prompts, place, causal))
    return model.text_projection(hidden[ids == tower.eos_token_id])  # one EOS per row


def siglip_text(model, ids, attention_mask, prompts):
    tower, table = model.text_model, model.text_model.embeddings.position_embedding.weight
    n = prompts[0].shape[1] if 0 in prompts else 0
    words = tower.embeddings.token_embedding(ids[:, : len(table) - n])  # padding gives way
    hidden = with_input_prompts(words, prompts, 0)
    hidden = through_layers(tower.encoder.layers, hidden + table[: hidden.shape[1]], prompts, 0)
    return tower.head(tower.final_layer_norm(hidden)[:, -1])


def seen(attention_mask, n, place):
    """Which tokens are seen, (B, 1, 1, L + n), with n prompts at `place`; None: all of them."""
    if attention_mask is None:
        return None
    prompts = torch.ones(len(attention_mask), n)
    return torch.cat([attention_mask[:, :place], prompts, attention_mask[:, place:]], dim=1)[:, None, None].bool()


def bert_states(tower, layers, ids, attention_mask, prompts, first_position=0, padding=None):
    """The states (B, L, d) after BERT's layers. The positions of padding, if it has any of its own, do not move."""
    embeddings, place = tower.embeddings, 1  # behind CLS
    hidden = with_input_prompts(embeddings.word_embeddings(ids), prompts, place)
    n = hidden.shape[1] - ids.shape[1]
    positions = (torch.arange(hidden.shape[1]) + first_position).expand(len(ids), -1)
    if padding is not None:
        padded = torch.cat([ids[:, :place], torch.full((len(ids), n), -1), ids[:, place:]], dim=1) == padding
        positions = positions.masked_fill(padded, padding)
    hidden = hidden + embeddings.position_embeddings.weight[positions] + embeddings.token_type_embeddings.weight[0]
    hidden = embeddings.LayerNorm(hidden)
    return through_layers(layers, hidden, prompts, place, lambda n: seen(attention_mask, n, place))


def chinese_clip_text(model, ids, attention_mask, prompts):
    tower = model.text_model
    return model.text_projection(bert_states(tower, tower.encoder.layer, ids, attention_mask, prompts)[:, 0])


def altclip_text(model, ids, attention_mask, prompts):
    tower, padding = model.text_model, model.config.text_config.pad_token_id
    states = bert_states(
        tower.roberta, tower.roberta.encoder.layers, ids, attention_mask, prompts, padding + 1, padding
    )
    return model.text_projection(tower.transformation(tower.pre_LN(states[:, 0])))


def tipsv2_text(model, ids, attention_mask, prompts):
    tower, width = model.text_model, model.config.text_config.hidden_size
    hidden = with_input_prompts(tower.embeddings.token_embedding(ids) * width**0.5, prompts, 0)
    n = hidden.shape[1] - ids.shape[1]
    angles = torch.arange(hidden.shape[1])[:, None] * 10000 ** -(torch.arange(width // 2) / (width // 2 - 1))
    hidden = hidden + torch.cat([angles.sin(), angles.cos()], dim=1)
    # the prompts of the input stay for the mean: as words that are not overwritten a last time
    states = through_layers(tower.encoder.layers, hidden, prompts, 0, lambda n: seen(attention_mask, n, 0), keep=n > 0)
    mask = torch.ones_like(ids) if attention_mask is None else attention_mask
    counted = torch.cat([torch.ones(len(ids), n), mask], dim=1)[..., None]
    return (tower.final_layer_norm(states) * counted).sum(dim=1) / counted.sum(dim=1)


def clip_vision(model, pixel_values, prompts, **options):
    tower = model.vision_model
    tokens = tower.embeddings(pixel_values, **options)
    hidden = tower.pre_layrnorm(with_input_prompts(tokens, prompts, tokens.shape[1]))
    hidden = through_layers(tower.encoder.layers, hidden, prompts, tokens.shape[1])
    return model.visual_projection(tower.post_layernorm(hidden)[:, 0])


def siglip_vision(model, pixel_values, prompts, **options):
    tower = model.vision_model
    patches = tower.embeddings(pixel_values, **options)
    hidden = with_input_prompts(patches, prompts, patches.shape[1])
    hidden = through_layers(tower.encoder.layers, hidden, prompts, patches.shape[1])
    return tower.head(tower.post_layernorm(hidden))


def tipsv2_vision(model, pixel_values, prompts, **options):
    tower = model.vision_model
    tokens = tower.embeddings(pixel_values)
    hidden = with_input_prompts(tokens, prompts, tokens.shape[1])
    return tower.layernorm(through_layers(tower.encoder.layer, hidden, prompts, tokens.shape[1]))[:, 0]


def logit_scale(model):
    """What the cosine is multiplied by."""
    return 1 / model.temperature if model.config.model_type == "tipsv2" else model.logit_scale.exp()


TEXTS = {
    "clip": clip_text,
    "metaclip_2": clip_text,
    "siglip": siglip_text,
    "siglip2": siglip_text,
    "altclip": altclip_text,
    "chinese_clip": chinese_clip_text,
    "tipsv2": tipsv2_text,
}
VISIONS = {
    "clip": clip_vision,
    "metaclip_2": clip_vision,
    "siglip": siglip_vision,
    "siglip2": siglip_vision,
    "altclip": clip_vision,
    "chinese_clip": clip_vision,
    "tipsv2": tipsv2_vision,
}
