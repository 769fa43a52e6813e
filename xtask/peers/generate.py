"""Codes drawn one by one in torch, by the samplers of VQGAN and LlamaGen.

The first run of a case is greedy and its codes are compared; what is timed draws with
top-k. Where a case gives `timed` places of many, only those are run, and the time is
multiplied."""

MODELS = {}


def model(kind, config):
    key = json.dumps([kind.__name__, config])
    if key not in MODELS:
        MODELS.clear()
        COMPILED.clear()
        net = fill(kind(config), matrices=MATRICES).eval()
        MODELS[key] = net.to(torch.bfloat16) if config.get("dtype") == "bf16" else net
    return MODELS[key]


# As LlamaGen's `--compile` has it: a CUDA graph of each step.
COMPILED = {}


def compiled(net):
    if net not in COMPILED:
        COMPILED[net] = torch.compile(net, mode="reduce-overhead", fullgraph=True)
    return COMPILED[net]


def prepare(case, tool):
    name = tool.removesuffix(" compiled")
    wanted = case.get(name)
    if wanted is None or (name != tool and DEVICE[0] == "cpu"):
        return None
    conditions = torch.tensor(case["conditions"])
    first = [True]

    def options():
        greedy, first[0] = first[0], False
        return {"temperature": 1.0, "top_k": 0 if greedy else case["top_k"], "greedy": greedy}

    if name == "LlamaGen":
        net = model(Transformer, wanted)
        decode = compiled(net) if name != tool else None
        run = lambda: [generate(net, conditions, case["length"], decode=decode, **options())]
        return inference(run)
    net = model(GPT, wanted)
    if "grid" not in case:
        run = lambda: [sample_with_past(conditions[:, None], net, case["length"], **options())]
        return inference(run)
    height, width = case["grid"]
    cidx = conditions.reshape(1, height, width)
    # As a window of the middle: the time of a place does not depend on it.
    places = [(height // 2, width // 2 + n) for n in range(case["timed"])]
    idx = torch.zeros_like(cidx)
    call = inference(lambda: [sliding_window(idx, cidx, net, places, **options())])
    call.times = height * width / len(places)
    return call


MATRICES = 0.035

serve(prepare, lambda threads: None)
