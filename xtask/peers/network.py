"""The autoencoder of the VQGAN paper and its discriminator as plain torch modules.

Names are those of the published checkpoints, since the pattern of a weight follows from its
name.
"""

import torch.nn.functional as F
from torch import nn


class ResnetBlock(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, channels, 1e-6)
        self.conv1 = nn.Conv2d(channels, out, 3, 1, 1)
        self.norm2 = nn.GroupNorm(32, out, 1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.nin_shortcut = nn.Conv2d(channels, out, 1) if channels != out else None

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class AttnBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.norm = nn.GroupNorm(32, c, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(c, c, 1) for _ in range(4))

    def forward(self, x):
        b, c, h, w = x.shape
        n = self.norm(x)
        q, k, v = (conv(n).reshape(b, c, h * w) for conv in (self.q, self.k, self.v))
        weights = torch.softmax(torch.bmm(q.transpose(1, 2), k) * c**-0.5, dim=2)
        return x + self.proj_out(torch.bmm(v, weights.transpose(1, 2)).reshape(b, c, h, w))


class Resample(nn.Module):
    def __init__(self, c, up):
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(c, c, 3, 1, 1) if up else nn.Conv2d(c, c, 3, 2, 0)

    def forward(self, x):
        if self.up:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Level(nn.Module):
    def __init__(self, widths, attention):
        super().__init__()
        pairs = list(zip(widths, widths[1:]))
        self.block = nn.ModuleList(ResnetBlock(i, o) for i, o in pairs)
        self.attn = nn.ModuleList(AttnBlock(o) for _, o in pairs) if attention else None

    def forward(self, h):
        for i, block in enumerate(self.block):
            h = block(h)
            if self.attn is not None:
                h = self.attn[i](h)
        return h


class Mid(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = ResnetBlock(c, c), AttnBlock(c), ResnetBlock(c, c)

    def forward(self, h):
        return self.block_2(self.attn_1(self.block_1(h)))


class Encoder(nn.Module):
    def __init__(self, m):
        super().__init__()
        widths = [m["ch"] * k for k in [1, *m["ch_mult"]]]
        self.conv_in = nn.Conv2d(m["in_channels"], m["ch"], 3, 1, 1)
        self.down = nn.ModuleList()
        for i, (width, out) in enumerate(zip(widths, widths[1:])):
            attention = m["resolution"] >> i in m["attn_resolutions"]
            level = Level([width] + [out] * m["num_res_blocks"], attention)
            last = i == len(m["ch_mult"]) - 1
            level.downsample = None if last else Resample(out, up=False)
            self.down.append(level)
        self.mid = Mid(widths[-1])
        self.norm_out = nn.GroupNorm(32, widths[-1], 1e-6)
        self.conv_out = nn.Conv2d(widths[-1], m["z_channels"], 3, 1, 1)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
            if level.downsample is not None:
                h = level.downsample(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    def __init__(self, m):
        super().__init__()
        outs = [m["ch"] * k for k in m["ch_mult"]]
        self.conv_in = nn.Conv2d(m["z_channels"], outs[-1], 3, 1, 1)
        self.mid = Mid(outs[-1])
        self.up = nn.ModuleList()
        for i, out in enumerate(outs):
            width = outs[min(i + 1, len(outs) - 1)]
            attention = m["resolution"] >> i in m["attn_resolutions"]
            level = Level([width] + [out] * (m["num_res_blocks"] + 1), attention)
            level.upsample = None if i == 0 else Resample(out, up=True)
            self.up.append(level)
        self.norm_out = nn.GroupNorm(32, outs[0], 1e-6)
        self.conv_out = nn.Conv2d(outs[0], m["out_channels"], 3, 1, 1)

    def forward(self, z):
        h = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            h = level(h)
            if level.upsample is not None:
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Codebook(nn.Module):
    def __init__(self, length, dim):
        super().__init__()
        self.embedding = nn.Embedding(length, dim)

    def nearest(self, z):
        """Code vectors [B, D, h, w] for z of that shape."""
        e = self.embedding.weight
        flat = z.permute(0, 2, 3, 1).reshape(-1, e.shape[1])
        with torch.no_grad():
            codes = torch.argmin((e * e).sum(1) - 2 * flat @ e.T, dim=1)
        b, _, h, w = z.shape
        return self.embedding(codes).view(b, h, w, -1).permute(0, 3, 1, 2)

    def forward(self, z):
        """Straight-through vectors, and the loss with the reference's legacy beta."""
        found = self.nearest(z)
        loss = ((found.detach() - z) ** 2).mean() + 0.25 * ((found - z.detach()) ** 2).mean()
        return z + (found - z).detach(), loss


class Autoencoder(nn.Module):
    def __init__(self, m):
        super().__init__()
        length, dim = m["quantizer"]["len"], m["quantizer"]["dim"]
        self.encoder, self.decoder = Encoder(m), Decoder(m)
        self.quant_conv = nn.Conv2d(m["z_channels"], dim, 1)
        self.quantize = Codebook(length, dim)
        self.post_quant_conv = nn.Conv2d(dim, m["z_channels"], 1)

    def encode(self, x):
        return self.quant_conv(self.encoder(x))

    def decode(self, z):
        return self.decoder(self.post_quant_conv(z))


def discriminator(in_channels, ndf, layers):
    """PatchGAN; `main.N` as in the reference."""
    main = [nn.Conv2d(in_channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
    width = ndf
    for i in range(1, layers + 1):
        out = ndf * min(2**i, 8)
        stride = 2 if i < layers else 1
        main += [nn.Conv2d(width, out, 4, stride, 1, bias=False), nn.BatchNorm2d(out), nn.LeakyReLU(0.2)]
        width = out
    main.append(nn.Conv2d(width, 1, 4, 1, 1))
    module = nn.Module()
    module.main = nn.Sequential(*main)
    return module
