//! PatchGAN discriminator, adversarial losses, adaptive weight
