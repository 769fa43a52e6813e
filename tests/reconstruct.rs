//! `synth-cli reconstruct`, as a user runs it.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use perceptual::{Rgb8, psnr_rgb8};
use serde_json::Value;
use support::{Place, Run, same_bytes, text, tiny};

/// A place with a model of factor 4.
fn place() -> Result<Place> {
    let place = Place::new()?;
    place.model("model", &tiny(3), 1)?;
    Ok(place)
}

#[test]
fn files_and_folders_in_any_size() -> Result<()> {
    let place = place()?;
    let sizes = [("one.png", 40, 24), ("in/b.png", 33, 17), ("in/deep/a.bmp", 7, 50)];
    for (name, w, h) in sizes {
        place.picture(name, w, h)?;
    }
    place.picture("in/pixel.png", 1, 1)?;
    std::fs::write(place.path("in/notes.txt"), "not a picture")?;

    let run = place.run(&["reconstruct", "--model", "model", "one.png", "in"])?.exits(0)?;
    let files = place.files("reconstructed")?;
    assert_eq!(files, ["b.png", "deep/a.png", "one.png", "pixel.png"]);
    for (name, w, h) in [("one.png", 40, 24), ("b.png", 33, 17), ("deep/a.png", 7, 50)] {
        let picture = image::open(place.path("reconstructed").join(name))?;
        assert_eq!((picture.width(), picture.height()), (w, h), "{name}");
    }
    let lines: Vec<_> = run.out.lines().collect();
    assert_eq!(lines.len(), 5, "{}", run.out);
    assert!(lines[0].starts_with("picture"), "{}", run.out);
    assert!(lines[1].contains("40x24") && lines[1].contains("10x6"), "{}", run.out);
    assert!(run.err.contains("4 done"), "{}", run.err);
    Ok(())
}

#[test]
fn compare_and_metrics() -> Result<()> {
    let place = place()?;
    let original = place.picture("a.png", 31, 20)?;
    place.picture("b.png", 16, 16)?;
    let args =
        ["reconstruct", "--model", "model", "a.png", "b.png", "--compare", "--metrics", "--json"];
    let run = place.run(&args)?.exits(0)?;
    let files = place.files("reconstructed")?;
    assert_eq!(files, ["a-compare.png", "a.png", "b-compare.png", "b.png"]);

    let (original, result) = (
        image::open(original)?.into_rgb8(),
        image::open(place.path("reconstructed/a.png"))?.into_rgb8(),
    );
    let pair = image::open(place.path("reconstructed/a-compare.png"))?.into_rgb8();
    assert_eq!(pair.dimensions(), (31 + 8 + 31, 20));
    for (x, y, pixel) in original.enumerate_pixels() {
        assert_eq!(pair.get_pixel(x, y), pixel);
        assert_eq!(pair.get_pixel(x + 31 + 8, y), result.get_pixel(x, y));
    }

    let pictures = run.lines("picture")?;
    let psnr = |line: &Value| line["psnr"].as_f64().context("no psnr");
    let expected =
        psnr_rgb8(Rgb8::new(31, 20, original.as_raw())?, Rgb8::new(31, 20, result.as_raw())?)?;
    // A number may lose its last bit on its way through JSON.
    assert!((psnr(&pictures[0])? - expected).abs() < 1e-9);
    let summary = run.line("summary")?;
    let mean = (psnr(&pictures[0])? + psnr(&pictures[1])?) / 2.0;
    let stated = summary["mean_psnr"].as_f64().context("no mean")?;
    assert!((stated - mean).abs() < 1e-9, "{stated} {mean}");
    assert_eq!((&summary["done"], &summary["failed"]), (&2.into(), &0.into()));
    assert_eq!(pictures[0]["grid"], serde_json::json!([8, 5]));

    let table = place.run(&[&args[..7], &["--force"]].concat())?.exits(0)?;
    assert!(table.out.contains("PSNR dB") && table.out.contains("mean SSIM"), "{}", table.out);
    assert!(table.out.contains(&format!("{expected:.2}")), "{}", table.out);
    Ok(())
}

#[test]
fn half_precision_gives_nearly_the_same_pixels_on_a_cpu() -> Result<()> {
    let place = place()?;
    place.picture("a.png", 48, 32)?;
    let pixels = |dtype: &str| -> Result<Vec<u8>> {
        let args =
            ["reconstruct", "--model", "model", "a.png", "--dtype", dtype, "--output", dtype];
        place.run(&args)?.exits(0)?;
        Ok(image::open(place.path(&format!("{dtype}/a.png")))?.to_rgb8().into_raw())
    };
    let whole = pixels("f32")?;
    for dtype in ["bf16", "f16"] {
        let half = pixels(dtype)?;
        ensure!(half.len() == whole.len());
        let off: f64 = half.iter().zip(&whole).map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        // Weights are off by a 256th (a 2048th) of themselves at most, and some codes change.
        let mean = off / whole.len() as f64;
        ensure!(mean < 4.0, "{dtype}: {mean} gray levels");
    }
    Ok(())
}

#[test]
fn nothing_to_do_is_1_and_errors_are_2() -> Result<()> {
    let place = place()?;
    place.picture("a.png", 8, 8)?;
    std::fs::create_dir(place.path("empty"))?;
    let says = |args: &[&str], code: i32, words: &[&str]| -> Result<()> {
        let run = place.run(args)?.exits(code)?;
        for word in words {
            ensure!(run.err.contains(word), "no {word:?} in: {}", run.err);
        }
        ensure!(run.out.is_empty(), "stdout: {}", run.out);
        Ok(())
    };
    says(&["reconstruct", "--model", "model", "empty"], 1, &["no pictures"])?;
    says(&["reconstruct", "--model", "model", "nowhere.png"], 1, &["nowhere.png", "no such"])?;
    says(&["reconstruct", "--model", "absent", "a.png"], 1, &["absent", "no such model"])?;
    says(&["reconstruct", "--model", "empty", "a.png"], 2, &["empty", "config.json"])?;
    says(&["reconstruct", "--model", "a.png", "a.png"], 2, &["a.png", "neither a safetensors"])?;
    says(&["reconstruct", "--model", "model", "a.png", "--device", "tpu"], 2, &["tpu"])?;
    says(&["reconstruct", "--model", "model", "a.png", "--dtype", "f64"], 2, &["f64", "bf16"])?;
    says(&["reconstruct", "--model", "model", "a.png", "--threads", "0"], 2, &["threads"])?;
    says(&["reconstruct", "--model", "model"], 2, &["IMAGE"])?;
    says(&["frobnicate"], 2, &["frobnicate"])?;
    if !candle_core::utils::cuda_is_available() {
        let args = ["reconstruct", "--model", "model", "a.png", "--device", "cuda:1"];
        says(&args, 2, &["cuda:1", "no CUDA support"])?;
    }
    assert_eq!(place.files("reconstructed")?, Vec::<String>::new());
    place.run(&["--version"])?.exits(0)?;
    place.run(&["reconstruct", "--help"])?.exits(0)?;
    Ok(())
}

#[test]
fn nothing_is_overwritten_unasked() -> Result<()> {
    let place = place()?;
    place.picture("a.png", 8, 8)?;
    place.picture("b.png", 8, 8)?;
    std::fs::create_dir(place.path("out"))?;
    std::fs::write(place.path("out/b.png"), "precious")?;
    let args = ["reconstruct", "--model", "model", "a.png", "b.png", "--output", "out"];

    let run = place.run(&args)?.exits(2)?;
    assert!(run.err.contains("out/b.png exists already"), "{}", run.err);
    assert_eq!(place.files("out")?, ["b.png"], "work began although a result was in the way");
    assert_eq!(std::fs::read(place.path("out/b.png"))?, b"precious");

    place.run(&[&args[..], &["--force"]].concat())?.exits(0)?;
    assert_eq!(place.files("out")?, ["a.png", "b.png"]);
    image::open(place.path("out/b.png"))?;

    let before = std::fs::read(place.path("a.png"))?;
    let run =
        place.run(&["reconstruct", "--model", "model", "a.png", "--output", ".", "--force"])?;
    let run = run.exits(2)?;
    assert!(run.err.contains("is an input"), "{}", run.err);
    assert_eq!(std::fs::read(place.path("a.png"))?, before);
    Ok(())
}

#[test]
fn one_bad_picture_among_many() -> Result<()> {
    let place = place()?;
    for name in ["in/1.png", "in/2.png", "in/4.png"] {
        place.picture(name, 12, 12)?;
    }
    std::fs::write(place.path("in/3.png"), "this is text")?;
    let whole = std::fs::read(place.path("in/1.png"))?;
    std::fs::write(place.path("in/5.png"), &whole[..whole.len() / 2])?;
    let args = ["reconstruct", "--model", "model", "in", "gone.png", "--batch", "4", "--json"];
    let run = place.run(&args)?.exits(2)?;

    assert_eq!(place.files("reconstructed")?, ["1.png", "2.png", "4.png"]);
    for bad in ["3.png", "5.png", "gone.png"] {
        assert!(run.err.contains(bad), "{bad}: {}", run.err);
    }
    assert_eq!(run.lines("picture")?.len(), 3);
    assert_eq!(run.lines("failure")?.len(), 3);
    let summary = run.line("summary")?;
    assert_eq!((&summary["done"], &summary["failed"]), (&3.into(), &3.into()));
    Ok(())
}

#[test]
fn a_bomb_is_refused_until_the_limit_is_raised() -> Result<()> {
    let place = place()?;
    place.picture("big.png", 200, 100)?;
    let args = ["reconstruct", "--model", "model", "big.png", "--max-pixels"];
    let run = place.run(&[&args[..], &["19999"]].concat())?.exits(2)?;
    assert!(run.err.contains("--max-pixels"), "{}", run.err);
    place.run(&[&args[..], &["20000"]].concat())?.exits(0)?;
    Ok(())
}

#[test]
fn the_same_bytes_for_any_batch_and_any_threads() -> Result<()> {
    let place = place()?;
    for i in 0..9 {
        let (w, h) = if i % 3 == 0 { (20, 28) } else { (32, 24) };
        place.picture(&format!("in/{i}{}.png", "x".repeat(i)), w, h)?;
    }
    let runs = [("b1", "1", "1"), ("b8", "8", "1"), ("b3", "3", "2"), ("t2", "1", "2")];
    for (output, batch, threads) in runs {
        let args = ["--batch", batch, "--threads", threads, "--output", output];
        let common = ["reconstruct", "--model", "model", "in", "--compare"];
        place.run(&[&common[..], &args].concat())?.exits(0)?;
    }
    let files = place.files("b1")?;
    assert_eq!(files.len(), 18);
    for (output, ..) in &runs[1..] {
        same_bytes(&place.path("b1"), &place.path(output), &files)?;
    }
    Ok(())
}

#[test]
fn large_pictures_are_tiled() -> Result<()> {
    let place = Place::new()?;
    place.model("model", &tiny(5), 1)?;
    place.picture("wide.png", 1111, 40)?;
    place.picture("large.png", 700, 600)?;
    let args = ["reconstruct", "--model", "model", "wide.png", "large.png"];
    place.run(&args)?.exits(0)?;
    for (name, size) in [("wide.png", (1111, 40)), ("large.png", (700, 600))] {
        let picture = image::open(place.path("reconstructed").join(name))?;
        assert_eq!((picture.width(), picture.height()), size);
    }
    let args = ["--memory", "60", "--output", "small", "--json"];
    let run =
        place.run(&[&["reconstruct", "--model", "model", "large.png"], &args[..]].concat())?;
    assert_eq!(run.exits(0)?.line("picture")?["grid"], serde_json::json!([44, 38]));
    Ok(())
}

#[test]
fn results_of_one_name_do_not_meet() -> Result<()> {
    let place = place()?;
    for name in ["a/x.png", "b/x.png", "b/x.bmp"] {
        place.picture(name, 8, 8)?;
    }
    let args = ["reconstruct", "--model", "model", "a/x.png", "b", "a/../a/x.png", "--json"];
    let run = place.run(&args)?.exits(0)?;
    assert_eq!(place.files("reconstructed")?, ["x-2.png", "x-3.png", "x.png"]);
    let pairs: Vec<_> = run
        .lines("picture")?
        .iter()
        .map(|line| format!("{} {}", line["source"], line["output"]).replace('"', ""))
        .collect();
    assert_eq!(
        pairs,
        [
            "a/x.png reconstructed/x.png",
            "b/x.bmp reconstructed/x-2.png",
            "b/x.png reconstructed/x-3.png"
        ]
    );
    Ok(())
}

#[test]
fn a_closed_pipe_is_no_error_and_the_files_are_made() -> Result<()> {
    let place = place()?;
    for i in 0..6 {
        place.picture(&format!("in/{i}.png"), 16, 16)?;
    }
    let mut child = place
        .command(&["reconstruct", "--model", "model", "in", "--quiet"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut first = String::new();
    BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut first)?;
    let mut err = String::new();
    child.stderr.take().context("no stderr")?.read_to_string(&mut err)?;
    let status = child.wait()?;
    assert!(status.success(), "{status}: {err}");
    assert_eq!(err, "");
    assert_eq!(place.files("reconstructed")?.len(), 6);
    Ok(())
}

#[test]
fn gray_models_work_and_segmentation_models_say_why_not() -> Result<()> {
    let place = Place::new()?;
    let mut config = tiny(2);
    (config.in_channels, config.out_channels) = (1, 1);
    place.model("gray", &config, 2)?;
    (config.in_channels, config.out_channels) = (7, 7);
    place.model("labels", &config, 2)?;
    place.picture("a.png", 9, 9)?;

    place.run(&["reconstruct", "--model", "gray", "a.png"])?.exits(0)?;
    let result = image::open(place.path("reconstructed/a.png"))?.into_rgb8();
    assert!(result.pixels().all(|p| p[0] == p[1] && p[1] == p[2]));

    let refused = |run: Run| {
        assert!(run.err.contains("segmentation"), "{}", run.err);
    };
    refused(place.run(&["reconstruct", "--model", "labels", "a.png", "--force"])?.exits(2)?);
    refused(place.run(&["encode", "--model", "labels", "a.png"])?.exits(2)?);
    place.run(&["inspect", "labels"])?.exits(0)?;
    Ok(())
}

#[test]
fn weights_that_do_not_fit_are_listed_in_one_message() -> Result<()> {
    let place = place()?;
    place.picture("a.png", 8, 8)?;
    let weights = place.path("model/model.safetensors");
    let args = ["reconstruct", "--model", text(&weights), "a.png", "--config", "llamagen-vq8"];
    let run = place.run(&args)?.exits(2)?;
    assert!(run.err.contains("missing") && run.err.contains("unexpected"), "{}", run.err);
    // A file inside a model folder brings its configuration along.
    place.run(&args[..4])?.exits(0)?;
    Ok(())
}
