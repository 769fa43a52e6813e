"""A stage 2 step in torch: minGPT with torch's fused attention, cross entropy and AdamW."""

import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        names = ("key", "query", "value", "proj")
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x):
        batch, length, width = x.shape
        h = self.ln1(x)

        def heads(name):
            y = self.attn[name](h).view(batch, length, self.heads, width // self.heads)
            return y.transpose(1, 2)

        read = F.scaled_dot_product_attention(
            heads("query"), heads("key"), heads("value"), is_causal=True
        )
        x = x + self.attn["proj"](read.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.ln2(x))


class Gpt(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        width = sizes["n_embd"]
        self.tok_emb = nn.Embedding(sizes["vocab_size"], width)
        self.pos_emb = nn.Parameter(torch.zeros(1, sizes["block_size"], width))
        self.blocks = nn.Sequential(*(Block(width, sizes["n_head"]) for _ in range(sizes["n_layer"])))
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes["vocab_size"], bias=False)

    def forward(self, tokens):
        x = self.tok_emb(tokens) + self.pos_emb[:, : tokens.shape[1]]
        return self.head(self.ln_f(self.blocks(x)))


def gpt_step(case, tool):
    if tool == "torch channels-last":
        return None
    net = Gpt(case["gpt"])
    with torch.no_grad():
        for name, value in net.named_parameters():
            shape = tuple(value.shape)
            drawn = pattern(name, shape, 0.04) if len(shape) > 1 else parameter(name, shape)
            value.copy_(drawn)
    decayed = [p for n, p in net.named_parameters() if p.dim() == 2 and "tok_emb" not in n]
    rest = [p for n, p in net.named_parameters() if not (p.dim() == 2 and "tok_emb" not in n)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=case["lr"], betas=(0.9, 0.95))
    tokens = torch.tensor(case["tokens"])
    targets = torch.tensor(case["targets"])

    def step():
        with autocast(case, tool):
            logits = net(tokens)
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return [loss.detach().reshape(1)]

    return step
