use anyhow::Result;

use super::*;

fn small() -> VqConfig {
    VqConfig {
        layout: Layout::Taming,
        in_channels: 3,
        out_channels: 3,
        ch: 32,
        ch_mult: vec![1, 2],
        num_res_blocks: 1,
        attn_resolutions: vec![8],
        resolution: 16,
        z_channels: 16,
        quantizer: QuantizerConfig::Euclidean { len: 64, dim: 8, beta: 0.25, legacy_beta: true },
        dropout: 0.0,
    }
}

/// The field that validation complains about.
fn complaint(change: impl FnOnce(&mut VqConfig)) -> &'static str {
    let mut config = small();
    change(&mut config);
    match config.validate() {
        Err(Error::Config { field, .. }) => field,
        other => panic!("{config:?} gave {other:?}"),
    }
}

#[test]
fn every_preset_is_valid_and_found_by_its_name() -> Result<()> {
    let names: Vec<_> = VqConfig::preset_names().collect();
    for name in &names {
        let config = VqConfig::preset(name).ok_or_else(|| anyhow::anyhow!("{name}"))?;
        config.validate()?;
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name} twice");
    }
    assert_eq!(VqConfig::preset("imagenet"), None);
    Ok(())
}

#[test]
fn parameter_counts_are_the_published_ones() -> Result<()> {
    for (name, parameters) in [
        ("imagenet-f16-1024", 72_141_699),
        ("openimages-f8-gumbel", 68_995_971),
        ("ldm-f8-16384", 67_717_295),
        ("llamagen-vq16", 71_883_403),
        ("llamagen-vq8", 70_109_835),
    ] {
        let config = VqConfig::preset(name).ok_or_else(|| anyhow::anyhow!("{name}"))?;
        assert_eq!(config.parameter_count()?, parameters, "{name}");
    }
    Ok(())
}

#[test]
fn config_survives_json() -> Result<()> {
    let config = small();
    let json = serde_json::to_string(&config)?;
    assert_eq!(serde_json::from_str::<VqConfig>(&json)?, config);
    assert!(serde_json::from_str::<VqConfig>(&json.replace("\"ch\"", "\"cch\"")).is_err());
    Ok(())
}

#[test]
fn hostile_sizes_are_refused_by_name() {
    assert!(small().validate().is_ok());
    assert_eq!(complaint(|c| c.in_channels = 0), "in_channels");
    assert_eq!(complaint(|c| c.out_channels = usize::MAX), "out_channels");
    assert_eq!(complaint(|c| c.ch = 48), "ch x ch_mult");
    assert_eq!(complaint(|c| c.ch = 0), "ch x ch_mult");
    assert_eq!(complaint(|c| c.ch_mult = vec![1, usize::MAX]), "ch x ch_mult");
    assert_eq!(complaint(|c| c.ch_mult = vec![]), "ch_mult");
    assert_eq!(complaint(|c| c.ch_mult = vec![1; 70]), "ch_mult");
    assert_eq!(complaint(|c| c.num_res_blocks = 1 << 40), "num_res_blocks");
    assert_eq!(complaint(|c| c.resolution = 0), "resolution");
    assert_eq!(complaint(|c| c.z_channels = 0), "z_channels");
    assert_eq!(complaint(|c| c.dropout = f64::NAN), "dropout");
    assert_eq!(complaint(|c| c.dropout = 1.0), "dropout");
    assert_eq!(complaint(|c| c.layout = Layout::LlamaGen), "attn_resolutions");
    assert_eq!(
        complaint(|c| {
            c.ch = 16_384;
            c.ch_mult = vec![1; 10];
            c.num_res_blocks = 64;
        }),
        "number of parameters"
    );
    let euclidean =
        |len, dim| QuantizerConfig::Euclidean { len, dim, beta: 0.25, legacy_beta: true };
    assert_eq!(complaint(|c| c.quantizer = euclidean(usize::MAX, 4)), "quantizer.len");
    assert_eq!(complaint(|c| c.quantizer = euclidean(4, usize::MAX)), "quantizer.dim");
}

#[test]
fn gumbel_needs_one_width_throughout() {
    let gumbel = |dim, features| QuantizerConfig::Gumbel {
        len: 64,
        dim,
        features,
        kl_weight: 1e-8,
        straight_through: true,
    };
    let mut config = small();
    config.quantizer = gumbel(16, 16);
    assert!(config.validate().is_ok());
    assert_eq!(complaint(|c| c.quantizer = gumbel(8, 16)), "quantizer");
    assert_eq!(complaint(|c| c.quantizer = gumbel(16, 8)), "quantizer");
}

#[test]
fn attention_sits_where_the_reference_puts_it() {
    let mut config = small();
    config.ch_mult = vec![1, 1, 1];
    // 30, 15, 7 on the way down, but 7, 14, 28 on the way up.
    (config.resolution, config.attn_resolutions) = (30, vec![15, 28]);
    let levels = |attends: fn(Layout, &VqConfig, usize) -> bool| {
        [0, 1, 2].map(|level| attends(config.layout, &config, level))
    };
    assert_eq!(levels(Layout::attends_down), [false, true, false]);
    assert_eq!(levels(Layout::attends_up), [true, false, false]);
}
