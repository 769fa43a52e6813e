"""LlamaGen's transformer (autoregressive/models/gpt.py) and its `generate`, with the static
cache: the names, the ops and their order are the reference's."""


class KVCache(nn.Module):
    def __init__(self, batch, length, n_head, head_dim, dtype):
        super().__init__()
        shape = (batch, n_head, length, head_dim)
        self.register_buffer("k_cache", torch.zeros(shape, dtype=dtype))
        self.register_buffer("v_cache", torch.zeros(shape, dtype=dtype))

    def update(self, input_pos, k, v):
        self.k_cache[:, :, input_pos] = k
        self.v_cache[:, :, input_pos] = v
        return self.k_cache, self.v_cache


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        x32 = x.float()
        x32 = x32 * torch.rsqrt(torch.mean(x32 * x32, dim=-1, keepdim=True) + self.eps)
        return x32.type_as(x) * self.weight


def apply_rotary_emb(x, freqs_cis):
    xshaped = x.float().reshape(*x.shape[:-1], -1, 2)
    freqs_cis = freqs_cis.view(1, xshaped.size(1), 1, xshaped.size(3), 2)
    turned = torch.stack(
        [
            xshaped[..., 0] * freqs_cis[..., 0] - xshaped[..., 1] * freqs_cis[..., 1],
            xshaped[..., 1] * freqs_cis[..., 0] + xshaped[..., 0] * freqs_cis[..., 1],
        ],
        dim=-1,
    )
    return turned.flatten(3).type_as(x)


def precompute_freqs_cis_2d(grid, head_dim, base, cls_tokens):
    half = head_dim // 2
    freqs = 1.0 / (base ** (torch.arange(0, half, 2)[: half // 2].float() / half))
    freqs = torch.outer(torch.arange(grid), freqs)
    freqs = torch.cat(
        [freqs[:, None, :].expand(-1, grid, -1), freqs[None, :, :].expand(grid, -1, -1)], dim=-1
    )
    cache = torch.stack([torch.cos(freqs), torch.sin(freqs)], dim=-1).flatten(0, 1)
    return torch.cat([torch.zeros(cls_tokens, half, 2), cache])


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dim, self.n_head, self.kv_cache = c["dim"], c["n_head"], None
        self.wqkv = nn.Linear(self.dim, 3 * self.dim, bias=False)
        self.wo = nn.Linear(self.dim, self.dim, bias=False)

    def forward(self, x, freqs_cis, input_pos, mask):
        batch, length, _ = x.shape
        xq, xk, xv = self.wqkv(x).split([self.dim] * 3, dim=-1)
        shape = (batch, length, self.n_head, self.dim // self.n_head)
        xq, xk, xv = xq.view(shape), xk.view(shape), xv.view(shape)
        xq, xk = apply_rotary_emb(xq, freqs_cis), apply_rotary_emb(xk, freqs_cis)
        xq, xk, xv = (x.transpose(1, 2) for x in (xq, xk, xv))
        keys, values = self.kv_cache.update(input_pos, xk, xv)
        output = F.scaled_dot_product_attention(xq, keys, values, attn_mask=mask)
        return self.wo(output.transpose(1, 2).contiguous().view(batch, length, self.dim))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.w1 = nn.Linear(c["dim"], c["hidden"], bias=False)
        self.w3 = nn.Linear(c["dim"], c["hidden"], bias=False)
        self.w2 = nn.Linear(c["hidden"], c["dim"], bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.attention = Attention(c)
        self.feed_forward = FeedForward(c)
        self.attention_norm = RMSNorm(c["dim"], c["norm_eps"])
        self.ffn_norm = RMSNorm(c["dim"], c["norm_eps"])

    def forward(self, x, freqs_cis, input_pos, mask):
        h = x + self.attention(self.attention_norm(x), freqs_cis, input_pos, mask)
        return h + self.feed_forward(self.ffn_norm(h))


class LabelEmbedder(nn.Module):
    def __init__(self, classes, width):
        super().__init__()
        self.embedding_table = nn.Embedding(classes + 1, width)


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.sizes = None
        self.cls_embedding = LabelEmbedder(c["classes"], c["dim"])
        self.tok_embeddings = nn.Embedding(c["vocab_size"], c["dim"])
        self.layers = nn.ModuleList([TransformerBlock(c) for _ in range(c["n_layer"])])
        self.norm = RMSNorm(c["dim"], c["norm_eps"])
        self.output = nn.Linear(c["dim"], c["vocab_size"], bias=False)

    def setup_caches(self, batch, length):
        c = self.c
        length = -(-length // 8) * 8
        # Those of the run before will do, and spare compiled code another recording.
        if self.sizes == (batch, length):
            return
        self.sizes = (batch, length)
        head_dim, dtype = c["dim"] // c["n_head"], self.output.weight.dtype
        for layer in self.layers:
            layer.attention.kv_cache = KVCache(batch, length, c["n_head"], head_dim, dtype)
        mask = torch.tril(torch.ones(length, length, dtype=torch.bool))
        self.causal_mask = mask.unsqueeze(0).repeat(batch, 1, 1)
        grid = int(c["block_size"] ** 0.5)
        self.freqs_cis = precompute_freqs_cis_2d(grid, head_dim, c["rope_base"], 1)

    def forward(self, idx, cond_idx, input_pos):
        if cond_idx is not None:
            h = self.cls_embedding.embedding_table(cond_idx).unsqueeze(1)
        else:
            h = self.tok_embeddings(idx)
        mask = self.causal_mask[: h.shape[0], None, input_pos]
        freqs_cis = self.freqs_cis[input_pos]
        for layer in self.layers:
            h = layer(h, freqs_cis, input_pos, mask)
        return self.output(self.norm(h)).float()


def generate(model, cond, max_new_tokens, temperature, top_k, greedy, decode=None):
    """`decode`: the model as it is called for one more token, compiled for example."""
    decode = model if decode is None else decode
    model.setup_caches(cond.shape[0], 1 + max_new_tokens)
    seq = torch.empty((cond.shape[0], max_new_tokens), dtype=torch.int)
    next_token = draw(model(None, cond, torch.arange(0, 1)), temperature, top_k, greedy)
    seq[:, :1] = next_token
    input_pos = torch.tensor([1], dtype=torch.int)
    new_tokens = []
    for _ in range(max_new_tokens - 1):
        logits = decode(next_token, None, input_pos)
        next_token = draw(logits, temperature, top_k, greedy)
        input_pos += 1
        new_tokens.append(next_token.clone())
        next_token = next_token.view(-1, 1)
    if new_tokens:
        seq[:, 1:] = torch.cat(new_tokens, dim=1)
    return seq
