"""Encoder, decoder and round trip in torch: NCHW, channels-last, and in half precision."""

MODELS = {}
HALVES = {"bf16": torch.bfloat16, "f16": torch.float16}


def placed(it, case, tool):
    """A model or an input in the layout and dtype of a tool."""
    if tool != "torch":
        it = it.to(memory_format=torch.channels_last)
    return it.to(HALVES[case["dtype"]]) if tool == "torch half" else it


def model(case, tool):
    if tool not in MODELS:
        MODELS[tool] = placed(fill(Autoencoder(case["model"])).eval(), case, tool)
    return MODELS[tool]


def prepare(case, tool):
    if tool == "torch half" and case["dtype"] not in HALVES:
        return None
    net = model(case, tool)
    x = placed(pattern("x", case["x"]), case, tool)
    work = {
        "encoder": lambda: [net.encode(x)],
        "decoder": lambda: [net.decode(x)],
        "round trip": lambda: [net.decode(net.quantize.nearest(net.encode(x)))],
    }
    return inference(work[case["part"]])


serve(prepare, lambda threads: None)
