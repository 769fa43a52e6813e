//! What to do with the names in a file that a network does not ask for.

/// What a tensor of a file is to a network that does not expect it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyUse {
    /// A weight. If the network does not expect it, it is unexpected.
    Load,
    /// Part of the training loss: LPIPS, discriminator.
    IgnoreLoss,
    /// State that the network computes itself or does not need.
    IgnoreBuffer,
    /// Another network that shares the file.
    IgnorePart,
    /// It should not be there.
    Unexpected,
}

/// Where a transformer's checkpoint keeps its autoencoders.
const STAGES: [&str; 2] = ["first_stage_model.", "cond_stage_model."];

/// Buffers of the reference systems, by the end of their name: the random
/// colours of label maps; LlamaGen's ring of used codes and its rotary table;
/// causal masks; the orders that permuters derive from their settings.
const BUFFERS: [&str; 6] = [
    "colorize",
    "quantize.codebook_used",
    "freqs_cis",
    "attn.mask",
    "permuter.forward_shuffle_idx",
    "permuter.backward_shuffle_idx",
];

/// What a name means in checkpoints of taming-transformers and LlamaGen.
pub fn reference_key_use(name: &str) -> KeyUse {
    let within = STAGES.iter().find_map(|stage| name.strip_prefix(stage)).unwrap_or(name);
    if within.starts_with("loss.") {
        return KeyUse::IgnoreLoss;
    }
    let is_buffer = BUFFERS.iter().any(|buffer| {
        within.strip_suffix(buffer).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    });
    if is_buffer { KeyUse::IgnoreBuffer } else { KeyUse::Load }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_references_names_are_known() {
        for (name, expected) in [
            ("encoder.conv_in.weight", KeyUse::Load),
            ("loss.discriminator.main.0.weight", KeyUse::IgnoreLoss),
            ("first_stage_model.loss.perceptual_loss.lin0.model.1.weight", KeyUse::IgnoreLoss),
            ("colorize", KeyUse::IgnoreBuffer),
            ("cond_stage_model.colorize", KeyUse::IgnoreBuffer),
            ("decolorize", KeyUse::Load),
            ("quantize.codebook_used", KeyUse::IgnoreBuffer),
            ("transformer.blocks.3.attn.mask", KeyUse::IgnoreBuffer),
            ("permuter.forward_shuffle_idx", KeyUse::IgnoreBuffer),
            ("lossy.weight", KeyUse::Load),
        ] {
            assert_eq!(reference_key_use(name), expected, "{name}");
        }
    }
}
