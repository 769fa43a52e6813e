//! PNG files with text chunks, written whole or not at all.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use image::RgbImage;

use crate::{Error, Result};

/// Memory for the text chunks of a file that is read, in bytes.
const MAX_TEXT_BYTES: usize = 64 << 20;
/// The most text that compressed chunks unpack to, all together: a kilobyte of them
/// can hold a megabyte.
const MAX_UNPACKED_TEXT_BYTES: usize = 4 << 20;

/// Writes `image` to `path` as PNG, with `text` as chunks of keyword and text: `tEXt`
/// where Latin-1 suffices, `iTXt` otherwise.
///
/// The file appears whole or not at all: it is written beside, synced and renamed.
///
/// # Errors
/// `path` exists and `overwrite` is false; a keyword that PNG does not allow (1 to 79
/// Latin-1 characters); a NUL in a text; the folder cannot be written to.
pub fn save_png(
    path: &Path,
    image: &RgbImage,
    text: &[(String, String)],
    overwrite: bool,
) -> Result<()> {
    let io = |source| Error::Io { path: path.to_path_buf(), action: "write", source };
    let exists = || Error::Exists { path: path.to_path_buf() };
    if !overwrite && path.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".").suffix(".png.part");
    #[cfg(unix)]
    {
        // What any program's new file gets: the umask applies. The default is 0600.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(io)?;
    encode(BufWriter::new(&mut file), image, text).map_err(|error| match error {
        png::EncodingError::IoError(source) => io(source),
        error => Error::Encode { path: path.to_path_buf(), reason: error.to_string() },
    })?;
    file.as_file().sync_all().map_err(io)?;
    if overwrite {
        file.persist(path).map_err(|error| io(error.error))?;
        return Ok(());
    }
    match file.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => Err(exists()),
        Err(error) => Err(io(error.error)),
    }
}

fn encode(
    mut out: impl Write,
    image: &RgbImage,
    text: &[(String, String)],
) -> std::result::Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(&mut out, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in text {
        if text.contains('\0') {
            let reason = format!("the text {keyword:?} contains a NUL character");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason).into());
        }
        if text.chars().all(|c| u32::from(c) < 256) {
            encoder.add_text_chunk(keyword.clone(), text.clone())?;
        } else {
            encoder.add_itxt_chunk(keyword.clone(), text.clone())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image)?;
    writer.finish()?;
    Ok(out.flush()?)
}

/// The text chunks of the PNG file `path`: keyword and text, `tEXt` and `zTXt` first,
/// then `iTXt`.
pub fn png_text(path: &Path) -> Result<Vec<(String, String)>> {
    let file = File::open(path).map_err(|source| {
        let path = path.to_path_buf();
        Error::Io { path, action: "read", source }
    })?;
    let damaged = |error: png::DecodingError| Error::Damaged {
        path: path.to_path_buf(),
        format: "PNG",
        reason: error.to_string(),
    };
    let limits = png::Limits { bytes: MAX_TEXT_BYTES };
    let decoder = png::Decoder::new_with_limits(BufReader::new(file), limits);
    let reader = decoder.read_info().map_err(damaged)?;
    let info = reader.info();
    let mut chunks = Vec::new();
    for chunk in &info.uncompressed_latin1_text {
        chunks.push((chunk.keyword.clone(), chunk.text.clone()));
    }
    // `get_text` alone would unpack without a limit.
    let mut left = MAX_UNPACKED_TEXT_BYTES;
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(left).map_err(damaged)?;
        let text = chunk.get_text().map_err(damaged)?;
        left = left.saturating_sub(text.len());
        chunks.push((chunk.keyword, text));
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(left).map_err(damaged)?;
        let text = chunk.get_text().map_err(damaged)?;
        left = left.saturating_sub(text.len());
        chunks.push((chunk.keyword, text));
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, load_rgb};

    fn entries(dir: &Path) -> anyhow::Result<usize> {
        Ok(std::fs::read_dir(dir)?.count())
    }

    #[test]
    fn keeps_pixels_and_text() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("out.png");
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8, y as u8, 9]));
        let text = [("parameters", "seed 1\ncafé"), ("synth", "{\"prompt\": \"狐\"}")]
            .map(|(k, v)| (k.to_string(), v.to_string()));
        save_png(&path, &image, &text, false)?;
        assert_eq!(load_rgb(&path, &Limits::default())?, image);
        assert_eq!(png_text(&path)?, text);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let plain = dir.path().join("plain");
            std::fs::write(&plain, [])?;
            let mode = |path: &Path| std::fs::metadata(path).map(|m| m.permissions().mode());
            assert_eq!(mode(&path)?, mode(&plain)?);
        }
        Ok(())
    }

    /// Found by inspecting fuzz/seeds/png_recipe/attack_text_bomb: 80 KB that unpacked
    /// to 80 MB.
    #[test]
    fn text_that_unpacks_without_end_is_refused() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("bomb.png");
        for (bytes, fine) in [(1 << 20, true), (MAX_UNPACKED_TEXT_BYTES + 1, false)] {
            let mut encoder = png::Encoder::new(std::fs::File::create(&path)?, 1, 1);
            encoder.set_color(png::ColorType::Rgb);
            encoder.add_ztxt_chunk("synth".to_string(), "x".repeat(bytes))?;
            encoder.write_header()?.write_image_data(&[0; 3])?;
            assert_eq!(png_text(&path).is_ok(), fine, "{bytes}");
        }
        Ok(())
    }

    #[test]
    fn overwrites_only_when_asked_and_leaves_nothing_behind() -> anyhow::Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("out.png");
        let (first, second) = (RgbImage::new(2, 2), RgbImage::new(3, 3));
        save_png(&path, &first, &[], false)?;
        let refused = save_png(&path, &second, &[], false);
        assert!(matches!(refused, Err(Error::Exists { .. })));
        assert_eq!(load_rgb(&path, &Limits::default())?, first);
        save_png(&path, &second, &[], true)?;
        assert_eq!(load_rgb(&path, &Limits::default())?, second);

        let bad = dir.path().join("bad.png");
        let keyword = "k".repeat(80);
        for text in [(keyword, "x".to_string()), ("k".to_string(), "a\0b".to_string())] {
            let error = save_png(&bad, &first, &[text], false);
            assert!(error.is_err_and(|e| e.to_string().contains("bad.png")));
        }
        assert!(save_png(&bad, &RgbImage::new(0, 3), &[], false).is_err());
        assert!(save_png(&dir.path().join("no/such.png"), &first, &[], false).is_err());
        assert_eq!(entries(dir.path())?, 1);
        Ok(())
    }
}
