"""What every peer of `cargo xtask bench` shares: the conversation and the data.

Rust starts `python -c` with this file and a subject's file one after the other. The first
line on stdin is {"threads": n, "device": "cpu" or "cuda", "cases": [...]}; the answer says which versions answer. Then
every line is a request, answered by one line:

  {"case": i, "tool": "torch"}                  make it ready, run it once -> {"values": [[...]]}
                                                (or {"unavailable": true})
  {"case": i, "tool": "torch", "seconds": s}    run it for s seconds -> {"seconds": per call}
  {"memory": true}                              -> {"peak": KiB, "now": KiB}

Weights and inputs are the pattern of `xtask/src/bench/pattern.rs`, so that results can be
compared.
"""

import json
import math
import os
import sys
import time

VALUES = 64
# What `setup` names: new tensors of torch are there too.
DEVICE = ["cpu"]

try:
    import numpy
    import torch
except ImportError as error:
    print(json.dumps({"missing": str(error)}), flush=True)
    sys.exit(0)


def pattern(name, shape, scale=1.0):
    """Hashed numbers in [-scale, scale), a function of (name, index) alone."""
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = numpy.arange(math.prod(shape), dtype=numpy.uint32) + numpy.uint32(seed)
    x *= numpy.uint32(2654435761)
    x ^= x >> numpy.uint32(15)
    x *= numpy.uint32(2246822519)
    x ^= x >> numpy.uint32(13)
    unit = (x >> numpy.uint32(8)).astype(numpy.float32) * numpy.float32(2.0**-23) - numpy.float32(1)
    return torch.from_numpy((unit * numpy.float32(scale)).reshape(shape)).to(DEVICE[0])


def parameter(name, shape, matrices=1.0):
    """The value of the parameter `name`; `matrices` is the scale of those."""
    last = name.rsplit(".", 1)[-1]
    if len(shape) == 4:
        return pattern(name, shape, 1 / math.sqrt(math.prod(shape[1:])))
    if len(shape) == 2:
        return pattern(name, shape, matrices)
    if last in ("weight", "running_var"):
        return torch.ones(shape)
    if last == "running_mean":
        return torch.zeros(shape)
    return pattern(name, shape, 0.1)


def fill(module, prefix="", matrices=1.0):
    """Gives every parameter of a module its value."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(parameter(prefix + name, tuple(value.shape), matrices))
    return module


def values(outputs):
    """Some numbers of every output, evenly spread."""
    chosen = []
    for output in outputs:
        flat = torch.as_tensor(output).detach().double().contiguous().flatten()
        count = min(VALUES, flat.numel())
        chosen.append([flat[i * flat.numel() // count].item() for i in range(count)])
    return chosen


def memory():
    """Peak and present memory in KiB: resident, as Linux tells it, or that of tensors on a
    GPU."""
    if DEVICE[0] != "cpu":
        numbers = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        return dict(zip(("peak", "now"), (number // 1024 for number in numbers)))
    found = {}
    with open("/proc/self/status") as status:
        for line in status:
            key, value = line.split(":", 1)
            found[key] = value
    return {"peak": int(found["VmHWM"].split()[0]), "now": int(found["VmRSS"].split()[0])}


def synchronize():
    if DEVICE[0] != "cpu":
        torch.cuda.synchronize()


def timed(call, seconds):
    calls, begun = 0, time.perf_counter()
    while True:
        call()
        synchronize()
        calls += 1
        passed = time.perf_counter() - begun
        if passed >= seconds:
            return passed / calls


def serve(prepare, about):
    """Answers requests until stdin ends; `prepare(case, tool)` gives a function or None."""
    # Only answers may reach Rust.
    answers, sys.stdout = sys.stdout, sys.stderr
    setup = json.loads(sys.stdin.readline())
    torch.set_num_threads(setup["threads"])
    DEVICE[0] = setup["device"]
    torch.set_default_device(DEVICE[0])
    if DEVICE[0] != "cpu":
        ABOUT.append(torch.cuda.get_device_name())
    about(setup["threads"])
    print(json.dumps({"about": ABOUT}), file=answers, flush=True)
    ready = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "memory" in request:
            answer = memory()
        else:
            case, tool = request["case"], request["tool"]
            if any(key[0] != case for key in ready):
                ready.clear()
            if "seconds" in request:
                call = ready[case, tool]
                # A function that does a part says how many of it are the whole.
                seconds = timed(call, request["seconds"]) * getattr(call, "times", 1)
                answer = {"seconds": seconds}
            else:
                call = prepare(setup["cases"][case], tool)
                if call is None:
                    answer = {"unavailable": True}
                else:
                    ready[case, tool] = call
                    answer = {"values": values(call())}
        print(json.dumps(answer), file=answers, flush=True)


ABOUT = [f"torch {torch.__version__}"]


def inference(call):
    """`call` without a graph."""

    def run():
        with torch.inference_mode():
            return call()

    return run
