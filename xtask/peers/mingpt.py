"""The transformer of VQGAN (taming/modules/transformer/mingpt.py) and its two samplers, as
its users run them: the names, the ops and their order are the reference's."""

from torch import nn
from torch.nn import functional as F


def top_k_filter(logits, top_k):
    """transformers 4.3.1 `top_k_top_p_filtering`, with top_p = 1."""
    if top_k > 0:
        top_k = min(top_k, logits.size(-1))
        logits[logits < torch.topk(logits, top_k)[0][..., -1, None]] = -float("inf")
    return logits


def draw(logits, temperature, top_k, greedy):
    probs = F.softmax(top_k_filter(logits[:, -1, :] / temperature, top_k), dim=-1)
    if greedy:
        return torch.topk(probs, k=1, dim=-1)[1]
    return torch.multinomial(probs, num_samples=1)


class CausalSelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["n_embd"]
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)
        self.n_head = c["n_head"]
        mask = torch.tril(torch.ones(c["block_size"], c["block_size"]))
        mask[: c["n_unmasked"], : c["n_unmasked"]] = 1
        self.register_buffer("mask", mask[None, None])

    def forward(self, x, layer_past=None):
        B, T, C = x.size()
        k = self.key(x).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        q = self.query(x).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        v = self.value(x).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
        present = torch.stack((k, v))
        if layer_past is not None:
            past_key, past_value = layer_past
            k = torch.cat((past_key, k), dim=-2)
            v = torch.cat((past_value, v), dim=-2)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        if layer_past is None:
            att = att.masked_fill(self.mask[:, :, :T, :T] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.proj(y), present


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        width = c["n_embd"]
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.attn = CausalSelfAttention(c)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x, layer_past=None):
        attn, present = self.attn(self.ln1(x), layer_past=layer_past)
        x = x + attn
        return x + self.mlp(self.ln2(x)), present


class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.tok_emb = nn.Embedding(c["vocab_size"], c["n_embd"])
        self.pos_emb = nn.Parameter(torch.zeros(1, c["block_size"], c["n_embd"]))
        self.blocks = nn.ModuleList([Block(c) for _ in range(c["n_layer"])])
        self.ln_f = nn.LayerNorm(c["n_embd"])
        self.head = nn.Linear(c["n_embd"], c["vocab_size"], bias=False)

    def forward(self, idx):
        x = self.tok_emb(idx)
        x = x + self.pos_emb[:, : x.shape[1], :]
        for block in self.blocks:
            x, _ = block(x)
        return self.head(self.ln_f(x))

    def forward_with_past(self, idx, past=None, past_length=None):
        x = self.tok_emb(idx)
        if past is not None:
            past = torch.cat(past, dim=-2)  # n_layer, 2, b, nh, len_past, dim_head
            position_embeddings = self.pos_emb[:, past_length, :]
        else:
            position_embeddings = self.pos_emb[:, : x.shape[1], :]
        x = x + position_embeddings
        presents = []
        for i, block in enumerate(self.blocks):
            x, present = block(x, layer_past=past[i, ...] if past is not None else None)
            presents.append(present)
        return self.head(self.ln_f(x)), torch.stack(presents)


def sample_with_past(x, model, steps, temperature, top_k, greedy):
    sample = x
    cond_len = x.shape[1]
    past = None
    for n in range(steps):
        logits, present = model.forward_with_past(x, past=past, past_length=n + cond_len - 1)
        if past is None:
            past = [present]
        else:
            past.append(present)
        x = draw(logits, temperature, top_k, greedy)
        sample = torch.cat((sample, x), dim=1)
    return sample[:, cond_len:]


def sliding_window(idx, cidx, model, places, temperature, top_k, greedy):
    """The loop of scripts/make_samples.py over some `places` of the grid `idx` [1, H, W]."""
    height, width = idx.shape[1:]
    for i, j in places:
        local_i = i if i <= 8 else (16 - (height - i) if height - i < 8 else 8)
        local_j = j if j <= 8 else (16 - (width - j) if width - j < 8 else 8)
        top, left = i - local_i, j - local_j
        patch = idx[:, top : top + 16, left : left + 16].reshape(1, -1)
        cpatch = cidx[:, top : top + 16, left : left + 16].reshape(1, -1)
        patch = torch.cat((cpatch, patch), dim=1)
        logits = model(patch[:, :-1])[:, -256:, :]
        logits = logits[:, local_i * 16 + local_j : local_i * 16 + local_j + 1, :]
        idx[:, i, j] = draw(logits, temperature, top_k, greedy)[:, 0]
    return idx
