"""One stage 1 step with a discriminator and without LPIPS in torch, NCHW and channels-last."""


def autocast(case, tool):
    """Half precision, for the tool that is compared in it."""
    return torch.autocast(DEVICE[0], torch.bfloat16, enabled=tool == "torch half")


def prepare(case, tool):
    if tool == "torch half" and case["dtype"] != "bf16":
        return None
    if "gpt" in case:
        return gpt_step(case, tool)
    if "lpips" in case:
        return lpips_step(case, tool)
    net = fill(Autoencoder(case["model"]))
    gan = case["discriminator"]
    critic = fill(
        discriminator(case["model"]["out_channels"], gan["ndf"], gan["n_layers"]), "loss.discriminator."
    )
    x = pattern("x", case["x"])
    if tool != "torch":
        net, critic = (m.to(memory_format=torch.channels_last) for m in (net, critic))
        x = x.contiguous(memory_format=torch.channels_last)
    lr, betas = case["lr"], (0.5, 0.9)
    of_net = torch.optim.Adam(net.parameters(), lr=lr, betas=betas)
    of_critic = torch.optim.Adam(critic.parameters(), lr=lr, betas=betas)
    last = net.decoder.conv_out.weight

    def forward():
        quantized, loss = net.quantize(net.encode(x))
        return net.decode(quantized), loss

    def step():
        with autocast(case, tool):
            made, quantizer_loss = forward()
        made = made.float()
        nll = (x - made).abs().mean()
        # As the reference's toggle_optimizer: no gradients for the other's parameters.
        critic.requires_grad_(False)
        with autocast(case, tool):
            generator = -critic.main(made).float().mean()
        (of_nll,) = torch.autograd.grad(nll, last, retain_graph=True)
        (of_generator,) = torch.autograd.grad(generator, last, retain_graph=True)
        weight = of_nll.norm() / (of_generator.norm() + 1e-4)
        weight = weight.clamp(0, 1e4).detach() * case["weight"]
        of_net.zero_grad()
        (nll + weight * generator + quantizer_loss).backward()
        of_net.step()

        critic.requires_grad_(True)
        if case["second_forward"]:
            with torch.no_grad(), autocast(case, tool):
                made, _ = forward()
        with autocast(case, tool):
            real, fake = critic.main(x).float(), critic.main(made.detach()).float()
        loss = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        of_critic.zero_grad()
        loss.backward()
        of_critic.step()
        return [torch.stack([nll, quantizer_loss]).detach(), torch.stack([generator, loss]).detach()]

    return step


serve(prepare, lambda threads: None)
