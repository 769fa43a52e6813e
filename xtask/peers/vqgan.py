"""Encoder, decoder and round trip in torch, NCHW and channels-last."""

MODELS = {}


def model(case, tool):
    key = tool == "torch channels-last"
    if key not in MODELS:
        made = fill(Autoencoder(case["model"])).eval()
        MODELS[key] = made.to(memory_format=torch.channels_last) if key else made
    return MODELS[key]


def prepare(case, tool):
    net = model(case, tool)
    x = pattern("x", case["x"])
    if tool == "torch channels-last":
        x = x.contiguous(memory_format=torch.channels_last)
    work = {
        "encoder": lambda: [net.encode(x)],
        "decoder": lambda: [net.decode(x)],
        "round trip": lambda: [net.decode(net.quantize.nearest(net.encode(x)))],
    }
    return inference(work[case["part"]])


serve(prepare, lambda threads: None)
