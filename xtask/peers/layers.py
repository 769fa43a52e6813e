"""Single layers in torch, NCHW and channels-last."""

import torch.nn.functional as F


def convolution(x, p, case):
    top, bottom, left, right = case["padding"]
    if top == bottom == left == right:
        return F.conv2d(x, p["weight"], p["bias"], case["stride"], top)
    return F.conv2d(F.pad(x, (left, right, top, bottom)), p["weight"], p["bias"], case["stride"])


def group_norm_silu(x, p, case):
    return F.silu(F.group_norm(x, 32, p["weight"], p["bias"], 1e-6))


def upsample(x, p, case):
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def upsample_conv(x, p, case):
    return F.conv2d(upsample(x, p, case), p["conv.weight"], p["conv.bias"], 1, 1)


def attention(x, p, case):
    b, c, h, w = x.shape
    normed = F.group_norm(x, 32, p["norm.weight"], p["norm.bias"], 1e-6)
    q, k, v = (
        F.conv2d(normed, p[n + ".weight"], p[n + ".bias"]).reshape(b, c, h * w) for n in "qkv"
    )
    weights = torch.softmax(q.transpose(1, 2) @ k * c**-0.5, dim=-1)
    mixed = (v @ weights.transpose(1, 2)).reshape(b, c, h, w)
    return x + F.conv2d(mixed, p["proj_out.weight"], p["proj_out.bias"])


OPS = {
    "conv": convolution,
    "group_norm_silu": group_norm_silu,
    "upsample": upsample,
    "upsample_conv": upsample_conv,
    "attention": attention,
}


def prepare(case, tool):
    channels_last = tool == "torch channels-last"

    def placed(t):
        if channels_last and t.dim() == 4:
            return t.contiguous(memory_format=torch.channels_last)
        return t

    op = OPS[case["op"]]
    x = placed(pattern("x", case["x"]))
    p = {name: placed(parameter(name, shape)) for name, shape in case["parameters"].items()}
    if not case["train"]:
        return inference(lambda: [op(x, p, case)])
    leaves = [x, *p.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    with torch.no_grad():
        shape = op(x, p, case).shape
    upstream = placed(pattern("upstream", tuple(shape)))
    return lambda: torch.autograd.grad(op(x, p, case), leaves, upstream)


serve(prepare, lambda threads: None)
