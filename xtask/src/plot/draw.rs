//! Panels on a sheet.

use anyhow::{Context, Result, anyhow};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use super::curves::{Curve, Panel, natural_share, smoothed};

/// Everything is drawn this many times as large and then shrunk: smooth lines.
pub const SCALE: u32 = 2;
/// A panel, and the legend above all, in pixels of the picture.
const PANEL: (u32, u32) = (440, 270);
const LEGEND: u32 = 34;
const MOST_COLUMNS: usize = 3;
/// Colours that stay apart in the usual kinds of colour blindness (Okabe and Ito 2008).
const COLORS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
];
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);

pub type Area<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

/// A sheet of `panels` with the names of the runs above.
pub fn draw(panels: &[Panel], names: &[&str], share: Option<f64>) -> Result<RgbImage> {
    let columns = panels.len().clamp(1, MOST_COLUMNS);
    let rows = panels.len().div_ceil(columns);
    let steps = extent_of_steps(panels);
    on_canvas(PANEL.0 * columns as u32, PANEL.1 * rows as u32 + LEGEND, |root| {
        let (head, body) = root.split_vertically(SCALE * LEGEND);
        draw_legend(&head, names, panels)?;
        for (cell, panel) in body.split_evenly((rows, columns)).iter().zip(panels) {
            draw_panel(cell, panel, steps, share)?;
        }
        Ok(())
    })
}

/// A white picture of `width` x `height` with what `paint` puts on it, which sees it
/// [`SCALE`] times as large.
pub fn on_canvas(
    width: u32,
    height: u32,
    paint: impl FnOnce(&Area) -> std::result::Result<(), Box<dyn std::error::Error>>,
) -> Result<RgbImage> {
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the built-in font cannot be read"))?;
    let large = (SCALE * width, SCALE * height);
    let mut pixels = vec![255; 3 * large.0 as usize * large.1 as usize];
    {
        let root = BitMapBackend::with_buffer(&mut pixels, large).into_drawing_area();
        paint(&root).map_err(|error| anyhow!("{error}"))?;
        root.present()?;
    }
    let large = RgbImage::from_raw(large.0, large.1, pixels).context("the sheet is too large")?;
    Ok(resize(&large, width, height, FilterType::Triangle))
}

fn px(pixels: u32) -> i32 {
    (SCALE * pixels) as i32
}

fn font(size: u32) -> TextStyle<'static> {
    (FONT, px(size)).into_font().color(&INK)
}

fn draw_legend(
    area: &Area,
    names: &[&str],
    panels: &[Panel],
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (mut x, middle) = (px(16), px(LEGEND / 2));
    let style = font(15);
    for (i, name) in names.iter().enumerate() {
        let line = [(x, middle), (x + px(22), middle)];
        let color = COLORS[i % COLORS.len()].stroke_width(SCALE * 2);
        area.draw(&PathElement::new(line, color))?;
        area.draw_text(name, &style, (x + px(28), middle - px(8)))?;
        x += px(28) + area.estimate_text_size(name, &style)?.0 as i32 + px(26);
    }
    if panels.iter().any(|panel| panel.runs.iter().any(|(_, held_out)| !held_out.is_empty())) {
        area.draw(&Circle::new((x + px(8), middle), px(3), INK.filled()))?;
        area.draw_text("held out", &style, (x + px(18), middle - px(8)))?;
    }
    Ok(())
}

fn draw_panel(
    area: &Area,
    panel: &Panel,
    x: (f64, f64),
    share: Option<f64>,
) -> std::result::Result<(), Box<dyn std::error::Error>> {
    let smooth = |curve: &Curve| smoothed(curve, share.unwrap_or(natural_share(curve.len())));
    let lines: Vec<(Curve, &Curve, &Curve)> =
        panel.runs.iter().map(|(raw, held_out)| (smooth(raw), raw, held_out)).collect();
    let y = extent_of_values(&lines);
    let mut chart = ChartBuilder::on(area)
        .margin(px(10))
        .caption(&panel.title, font(16))
        .x_label_area_size(px(26))
        .y_label_area_size(px(58))
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    chart
        .configure_mesh()
        .x_labels(6)
        .y_labels(6)
        .x_label_formatter(&|&x| short(x, x.abs()))
        .y_label_formatter(&|&v| short(v, y.1 - y.0))
        .bold_line_style(RGBColor(226, 226, 226).stroke_width(SCALE))
        .light_line_style(TRANSPARENT)
        .axis_style(RGBColor(150, 150, 150).stroke_width(SCALE))
        .label_style(font(12))
        .draw()?;
    let inside = |curve: &Curve| -> Curve {
        curve.iter().map(|&(step, value)| (step, value.clamp(y.0, y.1))).collect()
    };
    for (i, (_, raw, _)) in lines.iter().enumerate() {
        let faint = COLORS[i % COLORS.len()].mix(0.35).stroke_width(SCALE);
        chart.draw_series(LineSeries::new(inside(raw), faint))?;
    }
    for (i, (smooth, _, held_out)) in lines.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        chart.draw_series(LineSeries::new(inside(smooth), color.stroke_width(SCALE * 2)))?;
        chart.draw_series(LineSeries::new(inside(held_out), color.stroke_width(SCALE)))?;
        let dots = inside(held_out).into_iter();
        chart.draw_series(dots.map(|point| Circle::new(point, px(3), color.filled())))?;
    }
    Ok(())
}

/// From the first step of all panels to the last, so that one lies under the other.
fn extent_of_steps(panels: &[Panel]) -> (f64, f64) {
    let (mut first, mut last) = (f64::INFINITY, f64::NEG_INFINITY);
    let points = panels.iter().flat_map(Panel::points);
    points.for_each(|(step, _)| (first, last) = (first.min(step), last.max(step)));
    (first, last.max(first + 1.0))
}

/// All values but the wildest hundredth of the raw ones at either end.
fn extent_of_values(lines: &[(Curve, &Curve, &Curve)]) -> (f64, f64) {
    let mut values: Vec<f64> =
        lines.iter().flat_map(|(_, raw, _)| raw.iter().map(|&(_, value)| value)).collect();
    values.sort_by(f64::total_cmp);
    let cut = values.len() / 100;
    let kept = values[cut..values.len() - cut].iter().copied();
    let shown = lines.iter().flat_map(|(_, _, held_out)| held_out.iter().map(|&(_, value)| value));
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    kept.chain(shown).for_each(|value| (low, high) = (low.min(value), high.max(value)));
    // A flat curve lies in the middle of something.
    let room = match high - low {
        span if span > 1e-12 * high.abs() => 0.05 * span,
        _ => (0.1 * high.abs()).max(1e-6),
    };
    (low - room, high + room)
}

/// A number in few characters, exact enough to tell ticks of `span` apart.
fn short(value: f64, span: f64) -> String {
    let magnitude = value.abs();
    if magnitude < 1e-12 * span.max(1.0) {
        return "0".to_string();
    }
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text,
    };
    match magnitude {
        m if m >= 1e6 => trimmed(format!("{:.2}", value / 1e6)) + "M",
        m if m >= 1e4 => trimmed(format!("{:.1}", value / 1e3)) + "k",
        m if m < 1e-3 => format!("{value:.1e}"),
        _ => {
            let digits = (2.0 - span.abs().max(1e-9).log10()).ceil().clamp(0.0, 6.0) as usize;
            trimmed(format!("{value:.digits$}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_short() {
        let cases = [
            (0.0, 1.0, "0"),
            (0.25, 0.4, "0.25"),
            (20.5, 3.0, "20.5"),
            (1500.0, 1500.0, "1500"),
            (20_000.0, 1e5, "20k"),
            (1_250_000.0, 1e6, "1.25M"),
            (1e-4, 1e-4, "1.0e-4"),
        ];
        for (value, span, text) in cases {
            assert_eq!(short(value, span), text);
        }
    }

    #[test]
    fn a_sheet_shows_its_curves() -> Result<()> {
        let curve: Curve = (0..200).map(|i| (f64::from(i), 1.0 / f64::from(i + 1))).collect();
        let held_out = vec![(50.0, 0.4), (150.0, 0.2)];
        let panel = |title: &str| Panel {
            title: title.into(),
            runs: vec![(curve.clone(), held_out.clone())],
        };
        let panels: Vec<Panel> = ["a", "b", "c", "d"].map(panel).into();
        let sheet = draw(&panels, &["run"], None)?;
        assert_eq!(sheet.dimensions(), (3 * PANEL.0, LEGEND + 2 * PANEL.1));
        let blue = |x0: u32, y0: u32| {
            let cell = image::imageops::crop_imm(&sheet, x0, y0, PANEL.0, PANEL.1).to_image();
            cell.pixels().filter(|p| p[2] > 150 && p[0] < 60).count()
        };
        assert!(blue(0, LEGEND) > 300 && blue(0, LEGEND + PANEL.1) > 300);
        // The last two cells of the second row are empty.
        assert_eq!(blue(PANEL.0, LEGEND + PANEL.1), 0);
        Ok(())
    }
}
