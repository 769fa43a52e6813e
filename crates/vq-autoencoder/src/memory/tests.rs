use anyhow::{Context, Result};

use super::*;

#[test]
fn tiles_stay_within_the_limit_and_use_it() -> Result<()> {
    for name in VqConfig::preset_names() {
        let config = VqConfig::preset(name).context(name)?;
        for limit in [200 << 20, 1 << 30, 8 << 30] {
            let tiles = TileConfig::within(limit, &config)?;
            let pixels = tiles.max_pixels as u64;
            assert!(config.peak_bytes(pixels) <= limit, "{name}: {tiles:?}");
            assert_eq!(tiles.tile % config.factor(), 0);
            assert!(4 * tiles.overlap <= tiles.tile, "{name}: {tiles:?}");
        }
    }
    Ok(())
}

#[test]
fn the_default_tile_takes_a_gigabyte_in_the_f16_presets() -> Result<()> {
    let config = VqConfig::preset("imagenet-f16-1024").context("preset")?;
    let bytes = config.peak_bytes(TileConfig::default().max_pixels as u64);
    assert!((700 << 20..1 << 30).contains(&bytes), "{bytes}");
    Ok(())
}

#[test]
fn too_low_a_limit_says_what_it_takes() -> Result<()> {
    let config = VqConfig::preset("imagenet-f16-1024").context("preset")?;
    let error = TileConfig::within(1000, &config).err().context("accepted")?;
    assert!(error.to_string().contains("64x64"), "{error}");
    Ok(())
}
