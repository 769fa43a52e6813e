"""Codes drawn one by one in torch, by the samplers of VQGAN and LlamaGen.

The first run of a case is greedy and its codes are compared; what is timed draws with
top-k. Where a case gives `timed` places of many, only those are run, and the time is
multiplied."""

MODELS = {}


def model(kind, config):
    key = json.dumps([kind.__name__, config])
    if key not in MODELS:
        MODELS.clear()
        MODELS[key] = fill(kind(config), matrices=MATRICES).eval()
    return MODELS[key]


def prepare(case, tool):
    wanted = case.get(tool)
    if wanted is None:
        return None
    conditions = torch.tensor(case["conditions"])
    first = [True]

    def options():
        greedy, first[0] = first[0], False
        return {"temperature": 1.0, "top_k": 0 if greedy else case["top_k"], "greedy": greedy}

    if tool == "LlamaGen":
        net = model(Transformer, wanted)
        run = lambda: [generate(net, conditions, case["length"], **options())]
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
