//! The published configurations, as data.
//!
//! Source: the project files beside the published checkpoints of
//! CompVis/taming-transformers and latent diffusion, and LlamaGen's
//! `VQ_8`/`VQ_16`. Every one has 2 residual blocks a level, 128 base channels
//! and a nominal resolution of 256.

use codebook::QuantizerConfig;

use crate::config::VqConfig;
use crate::layout::Layout;

/// A published configuration under the name a user types.
#[derive(Debug, Clone)]
pub struct Preset {
    /// The name: data, factor, what sets it apart.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    image_channels: usize,
    network: Network,
    quantizer: QuantizerConfig,
}

/// What differs between the published networks.
#[derive(Debug, Clone, Copy)]
struct Network {
    layout: Layout,
    ch_mult: &'static [usize],
    attn_resolutions: &'static [usize],
    z_channels: usize,
}

const CH: usize = 128;
const NUM_RES_BLOCKS: usize = 2;
const RESOLUTION: usize = 256;

const F16: Network = Network {
    layout: Layout::Taming,
    ch_mult: &[1, 1, 2, 2, 4],
    attn_resolutions: &[16],
    z_channels: 256,
};
const GUMBEL_F8: Network = Network {
    layout: Layout::Taming,
    ch_mult: &[1, 1, 2, 4],
    attn_resolutions: &[32],
    z_channels: 256,
};
const LDM_F8: Network = Network {
    layout: Layout::Taming,
    ch_mult: &[1, 2, 2, 4],
    attn_resolutions: &[32],
    z_channels: 4,
};
const LLAMAGEN_F16: Network = Network {
    layout: Layout::LlamaGen,
    ch_mult: &[1, 1, 2, 2, 4],
    attn_resolutions: &[],
    z_channels: 256,
};
const LLAMAGEN_F8: Network = Network { ch_mult: &[1, 2, 2, 4], ..LLAMAGEN_F16 };

/// The quantizer of every published `VQModel`: beta 0.25 on the wrong term.
const fn euclidean(len: usize, dim: usize) -> QuantizerConfig {
    QuantizerConfig::Euclidean { len, dim, beta: 0.25, legacy_beta: true }
}

const LLAMAGEN_CODES: QuantizerConfig =
    QuantizerConfig::Normalized { len: 16384, dim: 8, beta: 0.25, entropy_ratio: 0.0 };
const GUMBEL_CODES: QuantizerConfig = QuantizerConfig::Gumbel {
    len: 8192,
    dim: 256,
    features: 256,
    kl_weight: 1e-8,
    straight_through: true,
};

const fn taming_f16(
    name: &'static str,
    about: &'static str,
    image_channels: usize,
    codes: usize,
) -> Preset {
    Preset { name, about, image_channels, network: F16, quantizer: euclidean(codes, 256) }
}

/// Every published configuration. Several share an architecture and differ in
/// the data they were trained on.
#[rustfmt::skip]
pub const PRESETS: &[Preset] = &[
    taming_f16("imagenet-f16-1024", "VQGAN, ImageNet, 1024 codes", 3, 1024),
    taming_f16("imagenet-f16-16384", "VQGAN, ImageNet, 16384 codes; first stage of cIN", 3, 16384),
    taming_f16("faceshq-f16-1024", "VQGAN, CelebA-HQ and FFHQ", 3, 1024),
    taming_f16("celebahq-f16-1024", "VQGAN, CelebA-HQ", 3, 1024),
    taming_f16("ffhq-f16-1024", "VQGAN, FFHQ", 3, 1024),
    taming_f16("sflckr-f16-1024", "VQGAN, landscapes; first stage of S-FLCKR", 3, 1024),
    taming_f16("ade20k-f16-1024", "VQGAN, ADE20K; first stage", 3, 1024),
    taming_f16("coco-f16-1024", "VQGAN, COCO-Stuff; first stage", 3, 1024),
    taming_f16("drin-f16-1024", "VQGAN, ImageNet animals; first stage of D-RIN", 3, 1024),
    taming_f16("custom-f16-1024", "VQGAN, configs/custom_vqgan.yaml", 3, 1024),
    taming_f16("coco-scene-f16-8192", "VQGAN, COCO and Open Images; first stage of scenes", 3, 8192),
    taming_f16("openimages-scene-f16-8192", "VQGAN, Open Images and COCO; first stage of scenes", 3, 8192),
    taming_f16("imagenet-depth", "VQGAN of depth maps, one channel; condition of D-RIN", 1, 1024),
    taming_f16("sflckr-segmentation-182", "VQGAN of 182 labels; condition of S-FLCKR", 182, 1024),
    taming_f16("coco-segmentation-183", "VQGAN of 183 labels; condition of COCO-Stuff", 183, 1024),
    taming_f16("ade20k-segmentation-151", "VQGAN of 151 labels; condition of ADE20K", 151, 1024),
    Preset {
        name: "openimages-f8-gumbel", about: "VQGAN with Gumbel quantization, Open Images, 8192 codes",
        image_channels: 3, network: GUMBEL_F8, quantizer: GUMBEL_CODES,
    },
    Preset {
        name: "ldm-f8-16384", about: "latent diffusion's vq-f8, Open Images, 16384 codes of 4 dimensions",
        image_channels: 3, network: LDM_F8, quantizer: euclidean(16384, 4),
    },
    Preset {
        name: "ldm-f8-256", about: "latent diffusion's vq-f8-n256, Open Images, 256 codes of 4 dimensions",
        image_channels: 3, network: LDM_F8, quantizer: euclidean(256, 4),
    },
    Preset {
        name: "llamagen-vq16", about: "LlamaGen VQ-16, ImageNet (or text-to-image data), 16384 codes",
        image_channels: 3, network: LLAMAGEN_F16, quantizer: LLAMAGEN_CODES,
    },
    Preset {
        name: "llamagen-vq8", about: "LlamaGen VQ-8, ImageNet, 16384 codes",
        image_channels: 3, network: LLAMAGEN_F8, quantizer: LLAMAGEN_CODES,
    },
];

impl Preset {
    /// The configuration.
    pub fn config(&self) -> VqConfig {
        VqConfig {
            layout: self.network.layout,
            in_channels: self.image_channels,
            out_channels: self.image_channels,
            ch: CH,
            ch_mult: self.network.ch_mult.to_vec(),
            num_res_blocks: NUM_RES_BLOCKS,
            attn_resolutions: self.network.attn_resolutions.to_vec(),
            resolution: RESOLUTION,
            z_channels: self.network.z_channels,
            quantizer: self.quantizer.clone(),
            dropout: 0.0,
        }
    }
}

impl VqConfig {
    /// The published configuration called `name`, see [`PRESETS`].
    pub fn preset(name: &str) -> Option<Self> {
        PRESETS.iter().find(|preset| preset.name == name).map(Preset::config)
    }

    /// The names that [`preset`](Self::preset) knows.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|preset| preset.name)
    }
}
