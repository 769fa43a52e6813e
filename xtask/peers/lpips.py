"""The reference's LPIPS (VGG-16 and a weight for each channel) and its gradient to one image."""

SLICES = [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]]
CHANNELS = [64, 128, 256, 512, 512]


class Lpips(nn.Module):
    def __init__(self):
        super().__init__()
        self.scaling_layer = nn.Module()
        for name in ("shift", "scale"):
            self.scaling_layer.register_parameter(name, nn.Parameter(torch.empty(1, 3, 1, 1)))
        self.net = nn.Module()
        before = 3
        for i, (convolutions, channels) in enumerate(zip(SLICES, CHANNELS)):
            layers = nn.Sequential()
            if i > 0:
                layers.add_module("pool", nn.MaxPool2d(2))
            for index in convolutions:
                layers.add_module(str(index), nn.Conv2d(before, channels, 3, 1, 1))
                layers.add_module(f"relu{index}", nn.ReLU(inplace=True))
                before = channels
            setattr(self.net, f"slice{i + 1}", layers)
            head = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            setattr(self, f"lin{i}", nn.Module())
            getattr(self, f"lin{i}").model = head

    def forward(self, x, y):
        x, y = ((z - self.scaling_layer.shift) / self.scaling_layer.scale for z in (x, y))
        total = 0
        for i in range(len(SLICES)):
            part = getattr(self.net, f"slice{i + 1}")
            x, y = part(x), part(y)
            a, b = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
            total = total + getattr(self, f"lin{i}").model((a - b).square()).mean([2, 3], keepdim=True)
        return total


def lpips_step(case, tool):
    net = fill(Lpips()).eval().requires_grad_(False)
    x, y = pattern("x", case["lpips"]), pattern("y", case["lpips"])
    if tool != "torch":
        net = net.to(memory_format=torch.channels_last)
        x, y = (z.contiguous(memory_format=torch.channels_last) for z in (x, y))
    y.requires_grad_(True)

    def step():
        with autocast(case, tool):
            distance = net(x, y).float().mean()
        (gradient,) = torch.autograd.grad(distance, y)
        return [distance.detach(), gradient]

    return step
