//! The pictures, each a function from the plane to light.

use super::canvas::{Color, diffuse, dome, highlight, lit, mix, rgb, smoothstep};

/// A picture to render.
pub struct Scene {
    /// File name without extension.
    pub name: &'static str,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The light at (x, y).
    pub shade: fn(f32, f32) -> Color,
}

/// Every picture; one has odd sides, for code that must cope with them.
pub const ALL: [Scene; 6] = [
    Scene { name: "smile", width: 128, height: 128, shade: smile },
    Scene { name: "heart", width: 128, height: 128, shade: heart },
    Scene { name: "star", width: 128, height: 128, shade: star },
    Scene { name: "mushroom", width: 128, height: 128, shade: mushroom },
    Scene { name: "marbles", width: 128, height: 128, shade: marbles },
    Scene { name: "dusk", width: 150, height: 101, shade: dusk },
];

const WHITE: Color = [1.0, 1.0, 1.0];

/// A glossy ball of `color` with normal `n`.
fn glossy(color: Color, n: [f32; 3]) -> Color {
    mix(lit(color, diffuse(n)), WHITE, 0.75 * highlight(n, 60.0))
}

/// Signed distance to a segment of half-width `r`.
fn capsule(x: f32, y: f32, a: (f32, f32), b: (f32, f32), r: f32) -> f32 {
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let t = (((x - a.0) * dx + (y - a.1) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
    (x - a.0 - t * dx).hypot(y - a.1 - t * dy) - r
}

fn smile(x: f32, y: f32) -> Color {
    let Some(n) = dome(x, y, 0.0, 0.0, 0.86) else { return WHITE };
    let skin = mix(rgb(0xf59b23), rgb(0xffd93b), smoothstep(-0.9, 0.5, y));
    let mut color = glossy(skin, n);
    for side in [-1.0, 1.0] {
        let cheek = ((x - side * 0.5) / 0.2).hypot((y + 0.12) / 0.13);
        color = mix(color, rgb(0xff7b5a), 0.55 * (1.0 - smoothstep(0.3, 1.0, cheek)));
        let eye = ((x - side * 0.29) / 0.105).hypot((y - 0.2) / 0.17);
        if eye < 1.0 {
            let shine = (x - side * 0.29 + 0.03).hypot(y - 0.27);
            color = if shine < 0.035 { WHITE } else { mix(rgb(0x5a3210), rgb(0x2b1605), eye) };
        }
    }
    // The mouth: a half moon with a tongue.
    let mouth = (x / 0.46).hypot((y + 0.16) / 0.42);
    if y < -0.16 && mouth < 1.0 {
        color = mix(rgb(0x7a2412), rgb(0x4a1208), mouth);
        if (x / 0.25).hypot((y + 0.55) / 0.18) < 1.0 {
            color = mix(rgb(0xff6b74), rgb(0xe04a5c), (y + 0.6) * -4.0);
        }
        if y > -0.25 {
            color = WHITE;
        }
    }
    color
}

fn heart(x: f32, y: f32) -> Color {
    // (x² + y² - 1)³ = x² y³, scaled; its level is a height for shading.
    let level = |x: f32, y: f32| {
        let (x, y) = (x * 1.32, y * 1.32 + 0.12);
        let r = x * x + y * y - 1.0;
        r * r * r - x * x * y * y * y
    };
    let here = level(x, y);
    if here > 0.0 {
        let shadow = 1.0 - smoothstep(0.0, 1.0, (x / 0.55).hypot((y + 0.93) / 0.06));
        return mix(WHITE, rgb(0xb9a3a8), 0.6 * shadow);
    }
    let height = |x: f32, y: f32| (-level(x, y)).max(0.0).powf(0.42) * 0.75;
    let step = 0.01;
    let slope = (
        (height(x + step, y) - height(x - step, y)) / (2.0 * step),
        (height(x, y + step) - height(x, y - step)) / (2.0 * step),
    );
    let length = (slope.0 * slope.0 + slope.1 * slope.1 + 1.0).sqrt();
    let n = [-slope.0 / length, -slope.1 / length, 1.0 / length];
    let red = mix(rgb(0xc2103a), rgb(0xff4b5c), smoothstep(-0.9, 0.7, y));
    mix(lit(red, diffuse(n)), WHITE, 0.7 * highlight(n, 24.0))
}

fn star(x: f32, y: f32) -> Color {
    use std::f32::consts::{PI, TAU};
    let (x, y) = (x, y + 0.06);
    let radius = x.hypot(y);
    // Fold onto half a ray: 0 along a tip, PI / 5 along a notch.
    let angle = (y.atan2(x) - PI / 2.0).rem_euclid(TAU / 5.0);
    let (folded, left) = if angle > PI / 5.0 { (TAU / 5.0 - angle, true) } else { (angle, false) };
    let (u, v) = (radius * folded.cos(), radius * folded.sin());
    // The edge from the tip (0.95, 0) to the notch.
    let notch = (0.46 * (PI / 5.0).cos(), 0.46 * (PI / 5.0).sin());
    let edge = (notch.0 - 0.92, notch.1);
    let length = edge.0.hypot(edge.1);
    let inside = ((u - 0.92) * -edge.1 + v * edge.0) / length;
    if inside < 0.0 {
        return WHITE;
    }
    // Two facets a tip: one in the light, one in the shade.
    let direction = (y.atan2(x) - PI / 2.0).div_euclid(TAU / 5.0);
    let tip = PI / 2.0 + TAU / 5.0 * (direction + f32::from(left));
    let side = if left { -1.0 } else { 1.0 };
    let facing = tip + side * 0.9;
    let n = [0.55 * facing.cos(), 0.55 * facing.sin(), 0.835];
    let gold = mix(rgb(0xff9d00), rgb(0xffe14a), smoothstep(-0.8, 0.8, y));
    let rim = smoothstep(0.0, 0.035, inside);
    mix(rgb(0xd97a00), lit(gold, diffuse(n)), rim)
}

fn mushroom(x: f32, y: f32) -> Color {
    let mut color = mix(rgb(0xf6fbff), rgb(0xd9f0dc), smoothstep(0.2, -1.0, y));
    let ground = (x / 0.8).hypot((y + 0.82) / 0.14);
    if ground < 1.0 {
        color = mix(rgb(0x4f9b3c), rgb(0x8fce5e), ground);
    }
    if capsule(x, y, (0.0, -0.62), (0.0, 0.0), 0.24 - 0.08 * y) < 0.0 {
        let around = (x / 0.3).clamp(-1.0, 1.0);
        let n = [around, 0.0, (1.0 - around * around).sqrt()];
        let shade = 1.0 - 0.5 * smoothstep(-0.35, 0.05, y);
        color = lit(lit(rgb(0xffefd2), diffuse(n)), shade);
    }
    let cap = dome(x, y / 0.86, 0.0, 0.0, 0.84);
    if let (Some(n), true) = (cap, y > -0.05 - 0.12 * (1.0 - (x / 0.84).powi(2)).max(0.0)) {
        color = glossy(rgb(0xd8282c), n);
        for (cx, cy, r) in
            [(-0.38, 0.22, 0.15), (0.12, 0.45, 0.17), (0.48, 0.14, 0.13), (0.02, 0.06, 0.1)]
        {
            if (x - cx).hypot((y - cy) / 0.85) < r {
                color = lit(rgb(0xfff6ea), diffuse(n));
            }
        }
    }
    color
}

fn marbles(x: f32, y: f32) -> Color {
    const BALLS: [(f32, f32, f32, u32); 4] = [
        (-0.40, -0.08, 0.42, 0x2f6fe0),
        (0.42, -0.02, 0.36, 0x2fae66),
        (0.02, -0.52, 0.30, 0xe8542f),
        (0.66, -0.62, 0.18, 0xb14fd0),
    ];
    let mut color = mix(rgb(0xdfe7f2), rgb(0xfdfdff), smoothstep(-1.0, 0.9, y));
    for (cx, cy, r, _) in BALLS {
        let shadow = ((x - cx - 0.1 * r) / (1.15 * r)).hypot((y - cy + 0.93 * r) / (0.28 * r));
        color = mix(color, rgb(0x6d7690), 0.75 * (1.0 - smoothstep(0.2, 1.0, shadow)));
    }
    for (cx, cy, r, hex) in BALLS {
        if let Some(n) = dome(x, y, cx, cy, r) {
            let glow = 0.5 * smoothstep(0.0, -1.0, n[1]) * n[2];
            color = mix(glossy(rgb(hex), n), WHITE, 0.25 * glow);
        }
    }
    color
}

fn dusk(x: f32, y: f32) -> Color {
    let mut color = mix(rgb(0xffb25c), rgb(0x3d3f8f), smoothstep(-0.35, 1.0, y));
    let sun = x.hypot(y + 0.08);
    color = mix(color, rgb(0xffdf8a), 0.8 * (-3.5 * sun).exp());
    if sun < 0.27 {
        color = mix(rgb(0xfff3c4), rgb(0xffc85a), sun / 0.27);
    }
    let hills: [(f32, f32, f32, f32, u32); 3] = [
        (-0.10, 0.16, 2.3, 0.6, 0x7a4f8e),
        (-0.35, 0.14, 3.1, 2.2, 0x4b3a78),
        (-0.62, 0.12, 2.6, 4.0, 0x252654),
    ];
    for (base, height, frequency, phase, hex) in hills {
        let ridge = base
            + height * (frequency * x + phase).sin()
            + 0.3 * height * (2.7 * frequency * x + phase).cos();
        if y < ridge {
            color = mix(rgb(hex), rgb(0xffb25c), 0.18 * smoothstep(0.35, 0.0, ridge - y));
        }
    }
    color
}
