use std::io::Cursor;

use anyhow::{Context, Result};
use image::{DynamicImage, ImageBuffer, Luma, LumaA, Rgb, Rgba, RgbaImage};
use proptest::prelude::*;

use super::*;

fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 11 % 256) as u8, (y * 17 % 256) as u8, ((x * y) % 251) as u8])
    })
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format)?;
    Ok(bytes.into_inner())
}

fn decoded(bytes: &[u8], name: &str) -> crate::Result<RgbImage> {
    decode_rgb(bytes, Path::new(name), &Limits::default())
}

/// One file of every format, and of several kinds where a format has them.
fn samples() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let rgb = DynamicImage::ImageRgb8(picture(19, 14));
    let mut samples = Vec::new();
    for (name, format) in [
        ("a.png", ImageFormat::Png),
        ("a.jpg", ImageFormat::Jpeg),
        ("a.webp", ImageFormat::WebP),
        ("a.gif", ImageFormat::Gif),
        ("a.tif", ImageFormat::Tiff),
        ("a.bmp", ImageFormat::Bmp),
        ("a.ppm", ImageFormat::Pnm),
        ("a.tga", ImageFormat::Tga),
    ] {
        samples.push((name, encoded(&rgb, format)?));
    }
    let rgba = DynamicImage::ImageRgba8(rgb.to_rgba8());
    samples.push(("rgba.webp", encoded(&rgba, ImageFormat::WebP)?));
    samples.push(("rgba16.png", encoded(&rgb.to_rgba16().into(), ImageFormat::Png)?));
    samples.push(("gray.jpg", encoded(&rgb.to_luma8().into(), ImageFormat::Jpeg)?));
    samples.push(("palette.tif", tiff_file(false, 3, &[8], &[0, 1, 2, 3, 4, 5], true)));
    samples.push((
        "gray_alpha.tif",
        tiff_file(true, 1, &[8, 8], &[10, 255, 20, 0, 0, 0, 9, 128], false),
    ));
    Ok(samples)
}

/// A TIFF of one uncompressed strip, two rows high.
fn tiff_file(
    big_endian: bool,
    photometric: u16,
    bits: &[u16],
    strip: &[u8],
    with_map: bool,
) -> Vec<u8> {
    let u16_bytes = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let u32_bytes = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let samples = bits.len() as u16;
    let width = strip.len() as u32 * 8 / u32::from(bits[0]) / u32::from(samples) / 2;
    // Entries are (tag, type, count, value), sorted; long values lie after the directory.
    let mut entries: Vec<(u16, Vec<u16>, Option<u32>)> = vec![
        (256, vec![width as u16], None),
        (257, vec![2], None),
        (258, bits.to_vec(), None),
        (259, vec![1], None),
        (262, vec![photometric], None),
        (273, vec![], Some(0)),
        (277, vec![samples], None),
        (278, vec![2], None),
        (279, vec![], Some(strip.len() as u32)),
    ];
    if with_map {
        let entries_per_color = 1_u16 << bits[0].min(8);
        let ramp = |scale: u16| (0..entries_per_color).map(move |i| (i % 256) * scale);
        let map: Vec<u16> = ramp(257).chain(ramp(2 * 257)).chain(ramp(0)).collect();
        entries.push((320, map, None));
    }
    if samples == 2 {
        entries.push((338, vec![2], None));
    }
    let directory = 8 + strip.len() + strip.len() % 2;
    let mut tail_at = directory + 2 + 12 * entries.len() + 4;
    let mut file = if big_endian { b"MM\0*".to_vec() } else { b"II*\0".to_vec() };
    file.extend(u32_bytes(directory as u32));
    file.extend(strip);
    file.resize(directory, 0);
    file.extend(u16_bytes(entries.len() as u16));
    let mut tail: Vec<u8> = Vec::new();
    for (tag, shorts, long) in entries {
        file.extend(u16_bytes(tag));
        if let Some(value) = long {
            file.extend(u16_bytes(4));
            file.extend(u32_bytes(1));
            file.extend(u32_bytes(if tag == 273 { 8 } else { value }));
            continue;
        }
        file.extend(u16_bytes(3));
        file.extend(u32_bytes(shorts.len() as u32));
        let mut value: Vec<u8> = shorts.iter().flat_map(|&v| u16_bytes(v)).collect();
        if value.len() > 4 {
            file.extend(u32_bytes(tail_at as u32));
            tail_at += value.len();
            tail.extend(value);
        } else {
            value.resize(4, 0);
            file.extend(value);
        }
    }
    file.extend([0; 4]);
    file.extend(tail);
    file
}

/// A JPEG with an EXIF segment that holds one entry, the orientation.
fn oriented_jpeg(image: &RgbImage, orientation: u8) -> Result<Vec<u8>> {
    let plain = encoded(&DynamicImage::ImageRgb8(image.clone()), ImageFormat::Jpeg)?;
    let mut exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    let mut file = plain[..2].to_vec();
    file.extend([0xFF, 0xE1]);
    file.extend((exif.len() as u16 + 2).to_be_bytes());
    file.extend(exif);
    file.extend(&plain[2..]);
    Ok(file)
}

#[test]
fn lossless_formats_keep_every_pixel_whatever_the_name() -> Result<()> {
    let image = picture(19, 14);
    for (name, bytes) in samples()? {
        let lossy = name.ends_with("jpg") || name.ends_with("gif");
        if lossy || bytes.starts_with(b"II*\0") && name != "a.tif" || bytes.starts_with(b"MM") {
            continue;
        }
        let other_name = if name == "a.tga" { "b.TGA" } else { "b.jpg" };
        assert!(decoded(&bytes, other_name)? == image, "{name}");
    }
    let tga = encoded(&image.clone().into(), ImageFormat::Tga)?;
    assert!(matches!(decoded(&tga, "b.jpg"), Err(Error::UnknownFormat { .. })));
    let marked = [&tga[..], &[0; 8], b"TRUEVISION-XFILE.\0"].concat();
    assert!(decoded(&marked, "b.jpg")? == image);
    Ok(())
}

#[test]
fn exif_orientation_turns_pictures_upright() -> Result<()> {
    // Quarters of distinct colours, large enough for JPEG to keep them.
    let quarter = |x: u32, y: u32| {
        [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0; 3]]][y as usize][x as usize]
    };
    let upright = RgbImage::from_fn(64, 32, |x, y| Rgb(quarter(x / 32, y / 16)));
    let flip = image::imageops::flip_horizontal;
    let (r90, r180, r270) =
        (image::imageops::rotate90, image::imageops::rotate180, image::imageops::rotate270);
    // How a camera stores what the orientation tag undoes.
    let stored: [RgbImage; 8] = [
        upright.clone(),
        flip(&upright),
        r180(&upright),
        flip(&r180(&upright)),
        flip(&r90(&upright)),
        r270(&upright),
        flip(&r270(&upright)),
        r90(&upright),
    ];
    for (i, stored) in stored.iter().enumerate() {
        let image = decoded(&oriented_jpeg(stored, i as u8 + 1)?, "a.jpg")?;
        assert_eq!(image.dimensions(), (64, 32));
        for (x, y) in [(8, 8), (56, 8), (8, 24), (56, 24)] {
            let (actual, expected) = (image.get_pixel(x, y), upright.get_pixel(x, y));
            let near = actual.0.iter().zip(expected.0).all(|(a, e)| a.abs_diff(e) < 40);
            assert!(near, "orientation {}: {actual:?} at ({x}, {y})", i + 1);
        }
    }
    // Orientations that do not exist are ignored.
    for orientation in [0, 9, 255] {
        assert_eq!(
            decoded(&oriented_jpeg(&upright, orientation)?, "a.jpg")?.dimensions(),
            (64, 32)
        );
    }
    Ok(())
}

#[test]
fn alpha_is_composited_on_white() -> Result<()> {
    let rgba =
        RgbaImage::from_fn(256, 3, |a, y| Rgba([0, 100, 255, [a as u8, 0, 255][y as usize]]));
    let image = decoded(&encoded(&rgba.into(), ImageFormat::Png)?, "a.png")?;
    for a in 0..=255_u32 {
        let over = |v: f64| ((v * f64::from(a) + 255.0 * f64::from(255 - a)) / 255.0).round() as u8;
        assert_eq!(image.get_pixel(a, 0).0, [over(0.0), over(100.0), 255]);
        assert_eq!(image.get_pixel(a, 1).0, [255; 3]);
        assert_eq!(image.get_pixel(a, 2).0, [0, 100, 255]);
    }
    let gray = ImageBuffer::from_fn(2, 1, |x, _| LumaA([40_u8, [0, 128][x as usize]]));
    let image = decoded(&encoded(&DynamicImage::ImageLumaA8(gray), ImageFormat::Png)?, "a.png")?;
    assert_eq!(image.as_raw(), &[255, 255, 255, 147, 147, 147]);
    let gray = ImageBuffer::from_fn(2, 1, |x, _| LumaA([0_u16, [0, 0x8000][x as usize]]));
    let image = decoded(&encoded(&DynamicImage::ImageLumaA16(gray), ImageFormat::Png)?, "a.png")?;
    assert_eq!(image.as_raw(), &[255, 255, 255, 127, 127, 127]);
    Ok(())
}

#[test]
fn sixteen_bits_round_to_nearest() -> Result<()> {
    let gray = ImageBuffer::from_fn(256, 256, |x, y| Luma([(y * 256 + x) as u16]));
    let bytes = encoded(&DynamicImage::ImageLuma16(gray), ImageFormat::Png)?;
    let image = decoded(&bytes, "a.png")?;
    for (i, pixel) in image.pixels().enumerate() {
        assert_eq!(pixel.0, [(i as f64 / 257.0).round() as u8; 3]);
    }
    Ok(())
}

#[test]
fn palettes_have_colours_and_alpha() -> Result<()> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 4, 1);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Two);
    encoder.set_palette(vec![255, 0, 0, 0, 255, 0, 0, 0, 255, 9, 9, 9]);
    encoder.set_trns(vec![255, 0, 128]);
    encoder.write_header()?.write_image_data(&[0b00_01_10_11])?;
    let image = decoded(&bytes, "a.png")?;
    assert_eq!(image.as_raw(), &[255, 0, 0, 255, 255, 255, 127, 127, 255, 9, 9, 9]);
    Ok(())
}

#[test]
fn tiff_palettes_and_gray_with_alpha() -> Result<()> {
    for big_endian in [false, true] {
        let file = tiff_file(big_endian, 3, &[8], &[0, 1, 2, 3, 4, 200], true);
        let image = decoded(&file, "a.tif")?;
        assert_eq!(image.dimensions(), (3, 2));
        assert_eq!(image.get_pixel(1, 0).0, [1, 2, 0]);
        assert_eq!(image.get_pixel(1, 1).0, [4, 8, 0]);
        // Rows of 4-bit indices begin at whole bytes.
        let file = tiff_file(big_endian, 3, &[4], &[0x12, 0x34], true);
        let image = decoded(&file, "a.tif")?;
        assert_eq!(image.as_raw().iter().step_by(3).collect::<Vec<_>>(), [&1, &2, &3, &4]);
        let alpha = tiff_file(big_endian, 1, &[8, 8], &[10, 255, 20, 0], false);
        assert_eq!(decoded(&alpha, "a.tif")?.as_raw(), &[10, 10, 10, 255, 255, 255]);
    }
    let cut = tiff_file(false, 3, &[8], &[0, 1, 2, 3, 4, 5], false);
    assert!(decoded(&cut, "no_map.tif").is_err());
    Ok(())
}

#[test]
fn animations_give_their_first_frame() -> Result<()> {
    let mut bytes = Vec::new();
    {
        let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
        for color in [[255, 0, 0, 255], [0, 0, 255, 255]] {
            encoder.encode_frame(image::Frame::new(RgbaImage::from_pixel(5, 4, Rgba(color))))?;
        }
    }
    let image = decoded(&bytes, "a.gif")?;
    assert_eq!((image.dimensions(), image.get_pixel(2, 2).0), ((5, 4), [255, 0, 0]));
    Ok(())
}

#[test]
fn pnm_values_are_scaled_to_their_maximum() -> Result<()> {
    let ascii = decoded(b"P2 # comment\n3 1\n4\n0 2 4\n", "a.pgm")?;
    assert_eq!(ascii.as_raw().iter().step_by(3).collect::<Vec<_>>(), [&0, &128, &255]);
    let bits = decoded(b"P4\n3 1\n\x40", "a.pbm")?;
    assert_eq!(bits.as_raw().iter().step_by(3).collect::<Vec<_>>(), [&255, &0, &255]);
    let wide = decoded(b"P5\n2 1\n65535\n\x80\x80\xff\xff", "a.pgm")?;
    assert_eq!(wide.as_raw().iter().step_by(3).collect::<Vec<_>>(), [&128, &255]);
    Ok(())
}

#[test]
fn bombs_are_refused_before_they_cost_anything() -> Result<()> {
    let mut header = Vec::new();
    png::Encoder::new(&mut header, 60_000, 60_000)
        .write_header()?
        .write_chunk(png::chunk::IDAT, &[])?;
    let message = decoded(&header, "bomb.png").err().context("accepted")?.to_string();
    for part in ["bomb.png", "3600000000", "134217728", "max_pixels", "--max-pixels 3600000000"] {
        assert!(message.contains(part), "{message}");
    }
    let thin = b"P5 100000 1 255 ";
    let message = decoded(thin, "thin.pgm").err().context("accepted")?.to_string();
    assert!(message.contains("max_side") && message.contains("--max-pixels 100000"), "{message}");
    let raised = decode_rgb(thin, Path::new("a"), &Limits::with_max_pixels(100_000));
    assert!(matches!(raised, Err(Error::Damaged { .. })));

    let image = encoded(&picture(40, 40).into(), ImageFormat::Png)?;
    let decode = |limits: Limits| decode_rgb(&image, Path::new("a.png"), &limits);
    let base = Limits::default;
    assert!(decode(Limits { max_pixels: 1600, max_side: 40, ..base() }).is_ok());
    for limits in [
        Limits { max_pixels: 1599, ..base() },
        Limits { max_side: 39, ..base() },
        Limits { max_alloc: 40 * 40 * 3, ..base() },
    ] {
        assert!(matches!(decode(limits), Err(Error::Limit { .. })));
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.png");
    std::fs::write(&path, &image)?;
    let small = Limits { max_file_bytes: image.len() as u64 - 1, ..base() };
    assert!(matches!(load_rgb(&path, &small), Err(Error::Limit { name: "max_file_bytes", .. })));
    assert!(load_rgb(&path, &base()).is_ok());
    Ok(())
}

#[test]
fn what_is_no_picture_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let message = |path: &Path| load_rgb(path, &Limits::default()).map_err(|e| e.to_string()).err();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("empty.png"), [])?;
    std::fs::write(at("text.png"), "hello")?;
    std::fs::write(at("photo.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")?;
    for (name, says) in [
        ("empty.png", "is empty"),
        ("text.png", "not a picture"),
        ("photo.heic", "HEIC is not supported"),
        ("missing.png", "cannot read"),
        (".", "a folder"),
    ] {
        let message = message(&at(name)).context("was read")?;
        assert!(message.contains(says) && message.contains(name), "{message}");
    }
    Ok(())
}

#[test]
fn a_cut_file_is_an_error_or_lacks_nothing() -> Result<()> {
    for (name, bytes) in samples()? {
        let whole = decoded(&bytes, name)?;
        for end in 0..bytes.len() {
            if let Ok(part) = decoded(&bytes[..end], name) {
                assert!(part == whole, "{name}: {end} of {} bytes were accepted", bytes.len());
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_bytes_never_panic(
        which in any::<prop::sample::Index>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let samples = samples().map_err(|e| TestCaseError::fail(e.to_string()))?;
        let (name, mut bytes) = samples[which.index(samples.len())].clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let keep = cut.index(2 * bytes.len());
        bytes.truncate(keep.max(1));
        let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
        if let Ok(image) = decode_rgb(&bytes, Path::new(name), &limits) {
            prop_assert!(image.width() > 0 && image.height() > 0);
        }
    }
}
