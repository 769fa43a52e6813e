//! What shape is the codebook, and what do more entries change?
//!
//! Codebooks of other sizes are fitted to the shipped encoder's vectors by k-means on the
//! sphere (Dhillon and Modha 2001); encoder and decoder stay as they are. What training
//! with so many entries would give is more than that: a lower bound.

use anyhow::{Result, ensure};
use candle_core::{DType, Device, Tensor};
use codebook::{CodeGrid, CodeUsage, Quantizer, nearest_codes};
use plotters::prelude::*;

use super::subject::{Subject, on_sphere, psnr};
use super::{Questions, below, head, panel, plot, row};
use crate::plot::{Curve, on_canvas};

const SIZES: [usize; 8] = [16, 64, 256, 512, 1024, 2048, 4096, 16384];
/// Vectors that codebooks are fitted to, and others that they are measured on.
const FITTED: usize = 48 << 10;
const MEASURED: usize = 12 << 10;
/// Crops at a time.
const BATCH: usize = 48;
const ROUNDS: usize = 6;
/// Codes of a map whose middle shows what a code looks like on its own.
const PATCH: usize = 4;
const SHAPE: u32 = 440;

pub fn answer(questions: &Questions) -> Result<()> {
    let subject = Subject::load(questions)?;
    let shipped = subject.model().quantizer();
    let rows = on_rows(&shipped.codebook().to_dtype(DType::F32)?)?;
    println!("{} codes of dimension {}, on the unit sphere\n", shipped.len(), shipped.dim());
    let others = batches(&subject, 0, MEASURED)?;
    let fitted = batches(&subject, others.len(), FITTED)?;
    let fitted = fitted.iter().map(|(_, z)| vectors(z)).collect::<Result<Vec<_>>>()?;
    let fitted = Tensor::cat(&fitted, 0)?;

    head(&["entries", "bits a code", "PSNR", "entries in use", "perplexity"]);
    let (mut quality, mut spread) = (Curve::new(), Curve::new());
    for size in SIZES {
        if size > fitted.dim(0)? {
            println!("\n{size}: there are only {} vectors to fit them to", fitted.dim(0)?);
            break;
        }
        let book = k_means(&fitted, size)?;
        let (psnr, usage) = measure(&subject, &book, &others)?;
        let bits = (size as f64).log2();
        tell(&size.to_string(), bits, psnr, &usage);
        quality.push((bits, psnr));
        spread.push((bits, usage.perplexity()));
    }
    let (with_own, usage) = measure(&subject, &rows, &others)?;
    let bits = (shipped.len() as f64).log2();
    tell(&format!("{}, as trained", shipped.len()), bits, with_own, &usage);

    let curves = plot(
        &[
            panel("PSNR of other crops, dB, by log2 of the entries", vec![quality]),
            panel("perplexity, by log2 of the entries", vec![spread]),
        ],
        &["fitted by k-means"],
    )?;
    questions.save("codebook.png", &below(&[shape(&subject, &rows, &fitted)?, curves]))
}

fn tell(name: &str, bits: f64, psnr: f64, usage: &CodeUsage) {
    row(&[
        name.to_owned(),
        format!("{bits:.0}"),
        format!("{psnr:.2} dB"),
        format!("{:.1} %", 100.0 * usage.used_fraction()),
        format!("{:.0}", usage.perplexity()),
    ]);
}

/// Crops, and the maps of the encoder's vectors of them, on the sphere: `count` vectors or a
/// few more, in batches, of which `before` were drawn for something else.
fn batches(subject: &Subject, before: usize, count: usize) -> Result<Vec<(Tensor, Tensor)>> {
    let batch = |draw: usize| {
        let x = subject.crops(draw as u64, BATCH)?;
        let z = on_sphere(&subject.model().pre_quant(&x)?)?;
        Ok((x, z))
    };
    let first = batch(before)?;
    let each = first.1.elem_count() / first.1.dim(1)?;
    let others = (1..count.div_ceil(each)).map(|i| batch(before + i));
    std::iter::once(Ok(first)).chain(others).collect()
}

/// The rows `[N, D]` of maps `[B, D, h, w]`.
fn vectors(z: &Tensor) -> Result<Tensor> {
    let dim = z.dim(1)?;
    Ok(z.permute((0, 2, 3, 1))?.reshape(((), dim))?.contiguous()?)
}

/// Rows `[N, D]` scaled to length one.
fn on_rows(rows: &Tensor) -> Result<Tensor> {
    let norm = rows.sqr()?.sum_keepdim(1)?.sqrt()?.maximum(1e-12)?;
    Ok(rows.broadcast_div(&norm)?)
}

/// `size` centres of unit length of `vectors` `[N, D]`.
fn k_means(vectors: &Tensor, size: usize) -> Result<Tensor> {
    let (count, dim) = vectors.dims2()?;
    ensure!(size <= count, "{size} centres of {count} vectors");
    // In even steps, from crop to crop: they are in no order.
    let picked: Vec<u32> = (0..size).map(|i| (i * count / size) as u32).collect();
    let mut book = vectors.index_select(&Tensor::new(picked, &Device::Cpu)?, 0)?;
    for _ in 0..ROUNDS {
        let codes = nearest_codes(vectors, &book)?;
        let sums = Tensor::zeros((size, dim), DType::F32, &Device::Cpu)?;
        let sums = sums.index_add(&codes, vectors, 0)?;
        // A centre without vectors stays where it is.
        let empty = sums.sqr()?.sum_keepdim(1)?.le(1e-12)?.to_dtype(DType::F32)?;
        book = on_rows(&(sums + book.broadcast_mul(&empty)?)?)?;
    }
    Ok(book)
}

/// PSNR over `crops`, whose vectors are replaced by rows of `book`, and how rows are used.
fn measure(
    subject: &Subject,
    book: &Tensor,
    crops: &[(Tensor, Tensor)],
) -> Result<(f64, CodeUsage)> {
    let mut usage = CodeUsage::new(book.dim(0)?);
    let (mut total, mut count) = (0.0, 0);
    for (x, z) in crops {
        let (b, dim, h, w) = z.dims4()?;
        let codes = nearest_codes(&vectors(z)?, book)?;
        let embeddings = book.index_select(&codes, 0)?.reshape((b, h, w, dim))?;
        let embeddings = embeddings.permute((0, 3, 1, 2))?.contiguous()?;
        let made = subject.model().decode_embeddings(&embeddings)?.clamp(-1.0, 1.0)?;
        let each = (made - x)?.sqr()?.mean((1, 2, 3))?.to_vec1::<f32>()?;
        usage.add(&CodeGrid::new(codes.reshape((b, h, w))?)?)?;
        total += each.iter().map(|&mean| psnr(f64::from(mean))).sum::<f64>();
        count += b;
    }
    Ok((total / count as f64, usage))
}

/// The codes in the plane of their two largest principal components, each in the colour
/// that it decodes to on its own, as large as it is often used.
fn shape(subject: &Subject, book: &Tensor, vectors: &Tensor) -> Result<image::RgbImage> {
    let codes = nearest_codes(vectors, book)?.to_vec1::<u32>()?;
    let mut counts = vec![0u32; book.dim(0)?];
    codes.iter().for_each(|&code| counts[code as usize] += 1);
    let colours = colours(subject, book)?;
    let places = plane(book)?;
    on_canvas(SHAPE, SHAPE, |area| {
        let size = f64::from(area.dim_in_pixel().0);
        // The sphere's own outline lies at 1.
        let pixel = |v: f32| ((0.5 + 0.47 * f64::from(v)) * size) as i32;
        let line = RGBColor(200, 200, 200).stroke_width(2);
        area.draw(&Circle::new((pixel(0.0), pixel(0.0)), (0.47 * size) as i32, line))?;
        for ((place, colour), count) in places.iter().zip(&colours).zip(&counts) {
            let radius = 3.0 + f64::from(*count).sqrt() * 0.6;
            let [r, g, b] = *colour;
            let middle = (pixel(place[0]), pixel(place[1]));
            area.draw(&Circle::new(middle, radius.min(24.0) as i32, RGBColor(r, g, b).filled()))?;
            let edge = RGBColor(150, 150, 150).stroke_width(1);
            area.draw(&Circle::new(middle, radius.min(24.0) as i32, edge))?;
        }
        Ok(())
    })
}

/// The colour of the middle of a map of nothing but that code, for each.
fn colours(subject: &Subject, book: &Tensor) -> Result<Vec<[u8; 3]>> {
    let (count, dim) = book.dims2()?;
    let mut colours = Vec::with_capacity(count);
    for first in (0..count).step_by(64) {
        let some = book.narrow(0, first, 64.min(count - first))?;
        let map = some.reshape(((), dim, 1, 1))?.broadcast_as((some.dim(0)?, dim, PATCH, PATCH))?;
        let made = subject.model().decode_embeddings(&map.contiguous()?)?;
        let side = made.dim(2)?;
        let middle = made.narrow(2, side / 4, side / 2)?.narrow(3, side / 4, side / 2)?;
        for rgb in middle.mean((2, 3))?.to_vec2::<f32>()? {
            colours
                .push([0, 1, 2].map(|i| ((rgb[i] + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8));
        }
    }
    Ok(colours)
}

/// `book` `[K, D]` in the plane of its two largest principal components.
fn plane(book: &Tensor) -> Result<Vec<Vec<f32>>> {
    let mut covariance = book.t()?.matmul(book)?;
    let dim = book.dim(1)?;
    let mut axes = Vec::new();
    for _ in 0..2 {
        // Power iteration; the part along the axis that is found is taken away.
        let ones: Vec<f32> = (0..dim).map(|i| 1.0 + 0.1 * i as f32).collect();
        let mut axis = Tensor::from_vec(ones, (dim, 1), &Device::Cpu)?;
        for _ in 0..200 {
            let next = covariance.matmul(&axis)?;
            let length = next.sqr()?.sum_all()?.sqrt()?;
            axis = next.broadcast_div(&length)?;
        }
        let image = covariance.matmul(&axis)?;
        let value = axis.t()?.matmul(&image)?;
        covariance = (covariance - axis.matmul(&axis.t()?)?.broadcast_mul(&value)?)?;
        axes.push(axis);
    }
    Ok(book.matmul(&Tensor::cat(&axes, 1)?)?.to_vec2()?)
}
