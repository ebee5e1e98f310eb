//! What all charts share: palette, fonts, axes, labels that keep out of each other's way, and PNG.
//!
//! Axes are our own, because an exact layout at 12 arms with long names matters more than the few
//! lines they take.

use std::sync::{Arc, LazyLock, Once};

use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::{
    Circle, Color as _, DrawingArea, FontStyle, IntoDrawingArea as _, IntoFont as _, PathElement,
    Polygon, RGBColor, Rectangle, SVGBackend, ShapeStyle, TextStyle, WHITE,
};
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use crate::ReportError;
use crate::text::{self, xml};

/// The surface of a chart, in pixels.
pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Pixels across; text stays readable when a page shows it at 600.
pub(super) const WIDTH: u32 = 700;
/// Pixels kept for the title.
pub(super) const TOP: i32 = 44;

pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const FAINT: RGBColor = RGBColor(110, 110, 110);
pub(super) const GRID: RGBColor = RGBColor(226, 226, 226);
pub(super) const LIGHT: RGBColor = RGBColor(190, 190, 190);

/// Words on a bar of a light or of a dark colour: a hair off the colours that [`DARK`] turns, because
/// bars keep their colour.
pub(super) const ON_LIGHT: RGBColor = RGBColor(33, 33, 33);
pub(super) const ON_DARK: RGBColor = RGBColor(254, 254, 254);

/// What becomes of a colour on a dark page: background, ink, lines, and the one colour of the palette
/// that would be lost. The others stand out on both.
pub(crate) const DARK: [(&str, &str); 8] = [
    ("#FFFFFF", "#0d1117"),
    ("#222222", "#e6edf3"),
    ("#6E6E6E", "#a5b0bb"),
    ("#E2E2E2", "#30363d"),
    ("#BEBEBE", "#59636e"),
    ("#000000", "#f0f0f0"),
    ("#D7D7D7", "#484f58"),
    ("#0072B2", "#2a8fd0"),
];

/// Okabe and Ito's palette (2008), which colour-blind readers can tell apart, without the yellow
/// that is lost on white.
pub(super) const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// Verdana has the widths of `DejaVu`, so that a reader without it sees the same layout.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";
/// Height of the letters, in the units of plotters (1.24 of a CSS pixel).
pub(super) const SMALL: f64 = 15.5;
pub(super) const TITLE: f64 = 19.0;

/// The colour of an arm, the same in every chart.
pub(super) fn colour(arm: usize) -> RGBColor {
    PALETTE[arm % PALETTE.len()]
}

/// Draws on white under a title; `alt` is what the picture says, for those who do not see it.
pub(super) fn svg(
    height: i32,
    title: &str,
    alt: &str,
    paint: impl FnOnce(&Area<'_>) -> Result<(), ReportError>,
) -> Result<String, ReportError> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // Only a damaged font could be refused, and then drawing text fails with a message.
        let _ = register_font(FAMILY, FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font(FAMILY, FontStyle::Bold, dejavu::sans::bold());
    });
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, (WIDTH, height as u32)).into_drawing_area();
        area.fill(&WHITE)?;
        let style = (FAMILY, TITLE, FontStyle::Bold).into_font().color(&INK);
        area.draw_text(&fit(&area, title, WIDTH as i32 - 30)?, &style, (12, 12))?;
        paint(&area)?;
        area.present()?;
    }
    let head = out.find('>').map_or(0, |at| at + 1);
    let told = format!(
        "\n<title>{}</title>\n<desc>{}</desc>\n<style>@media screen and (prefers-color-scheme:dark){{{}}}</style>",
        xml(title),
        xml(alt),
        DARK.map(|(light, dark)| {
            format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}")
        })
        .concat(),
    );
    out.insert_str(head, &told);
    Ok(out.replacen("<svg ", "<svg role=\"img\" ", 1))
}

/// The same picture as PNG, twice as fine.
pub(crate) fn png(svg: &str) -> Result<Vec<u8>, ReportError> {
    static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.load_font_data(dejavu::sans::bold().to_vec());
        fonts.set_sans_serif_family("DejaVu Sans");
        Arc::new(fonts)
    });
    let failed = |message: String| ReportError::Chart(message);
    let options = Options { fontdb: Arc::clone(&FONTS), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| failed(error.to_string()))?;
    let size = tree.size();
    let mut pixels = Pixmap::new(2 * size.width() as u32, 2 * size.height() as u32)
        .ok_or_else(|| failed("the picture has no size".into()))?;
    resvg::render(&tree, Transform::from_scale(2.0, 2.0), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| failed(error.to_string()))
}

fn style(colour: &RGBColor, across: HPos, down: VPos) -> TextStyle<'_> {
    TextStyle::from((FAMILY, SMALL).into_font()).color(colour).pos(Pos::new(across, down))
}

/// Where a text stands to its point.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Left,
    Middle,
    Right,
}

/// Writes one line, centred on the height of `at`.
pub(super) fn write(
    area: &Area<'_>,
    words: &str,
    at: (i32, i32),
    anchor: Anchor,
    colour: RGBColor,
) -> Result<(), ReportError> {
    let across = match anchor {
        Anchor::Left => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::Right => HPos::Right,
    };
    Ok(area.draw_text(&text::line(words), &style(&colour, across, VPos::Center), at)?)
}

/// Pixels that a text takes. Plotters measures with the font's whole height where SVG writes with
/// the em, so its figure is 1.24 / 1.164 of what is drawn.
pub(super) fn width(area: &Area<'_>, words: &str) -> Result<i32, ReportError> {
    let style = style(&INK, HPos::Left, VPos::Center);
    let measured = area.estimate_text_size(&text::line(words), &style)?.0;
    Ok((f64::from(measured) * 1.164 / 1.24).ceil() as i32)
}

/// The text, cut to fit into `pixels`; the end is kept, because that is where long names differ.
pub(super) fn fit(area: &Area<'_>, words: &str, pixels: i32) -> Result<String, ReportError> {
    let words = text::line(words);
    if width(area, &words)? <= pixels {
        return Ok(words);
    }
    let chars: Vec<char> = words.chars().collect();
    let mut kept = (chars.len() - 1).min(200);
    loop {
        let (head, tail) = (kept.div_ceil(2), kept / 2);
        let short: String =
            chars[..head].iter().chain(['…'].iter()).chain(&chars[chars.len() - tail..]).collect();
        if kept <= 2 || width(area, &short)? <= pixels {
            return Ok(short);
        }
        kept -= 1;
    }
}

pub(super) fn line(
    area: &Area<'_>,
    points: Vec<(i32, i32)>,
    style: impl Into<ShapeStyle>,
) -> Result<(), ReportError> {
    Ok(area.draw(&PathElement::new(points, style))?)
}

/// A thin line of dashes through the points.
pub(super) fn dashed(
    area: &Area<'_>,
    points: Vec<(i32, i32)>,
    colour: RGBColor,
) -> Result<(), ReportError> {
    if points.len() < 2 {
        return Ok(());
    }
    Ok(area.draw(&DashedPathElement::new(points, 5, 4, colour.stroke_width(1)))?)
}

pub(super) fn bar(
    area: &Area<'_>,
    corners: [(i32, i32); 2],
    style: impl Into<ShapeStyle>,
) -> Result<(), ReportError> {
    Ok(area.draw(&Rectangle::new(corners, style))?)
}

/// The mark of an arm: its colour, and its shape where colours run out.
pub(super) fn mark(
    area: &Area<'_>,
    (x, y): (i32, i32),
    arm: usize,
    strength: f64,
) -> Result<(), ReportError> {
    let style = colour(arm).mix(strength).filled();
    let shape: &[(i32, i32)] = match arm / PALETTE.len() {
        0 => return Ok(area.draw(&Circle::new((x, y), 5, style))?),
        1 => &[(-5, -5), (5, -5), (5, 5), (-5, 5)],
        2 => &[(0, -7), (7, 0), (0, 7), (-7, 0)],
        _ => &[(0, -6), (6, 5), (-6, 5)],
    };
    let points: Vec<(i32, i32)> = shape.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
    Ok(area.draw(&Polygon::new(points, style))?)
}

/// Maps figures to pixels along one axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    is_log: bool,
    /// Only whole numbers have a tick.
    is_count: bool,
    from: i32,
    to: i32,
}

impl Scale {
    /// From zero or the smallest value to the largest, with some air.
    pub(super) fn linear(values: impl Iterator<Item = f64>, pixels: [i32; 2]) -> Self {
        let (low, high) = ends(values);
        let air = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.1 };
        Self {
            low: low - air,
            high: high + air,
            is_log: false,
            is_count: false,
            from: pixels[0],
            to: pixels[1],
        }
    }

    /// Exactly these ends.
    pub(super) fn fixed(low: f64, high: f64, pixels: [i32; 2]) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self { low, high, is_log: false, is_count: false, from: pixels[0], to: pixels[1] }
    }

    /// The same for things that are counted: no tick between two whole numbers.
    pub(super) fn counting(self) -> Self {
        Self { is_count: true, ..self }
    }

    /// Logarithmic where values are positive and span more than a factor of ten, from zero otherwise.
    pub(super) fn positive(values: impl Iterator<Item = f64>, pixels: [i32; 2]) -> Self {
        let (low, high) = ends(values);
        if low > 0.0 && high / low > 10.0 {
            return Self {
                low: low / 1.3,
                high: high * 1.3,
                is_log: true,
                is_count: false,
                from: pixels[0],
                to: pixels[1],
            };
        }
        Self::fixed(0.0, if high > 0.0 { high * 1.08 } else { 1.0 }, pixels)
    }

    pub(super) fn at(&self, value: f64) -> i32 {
        let map = |x: f64| if self.is_log { x.max(f64::MIN_POSITIVE).ln() } else { x };
        let share = (map(value) - map(self.low)) / (map(self.high) - map(self.low));
        self.from + (share.clamp(-0.02, 1.02) * f64::from(self.to - self.from)).round() as i32
    }

    /// Round values along the axis, and how they are written.
    fn ticks(&self) -> Vec<(f64, String)> {
        if self.is_log {
            let decades = self.low.log10().floor() as i32..=self.high.log10().ceil() as i32;
            let steps: &[f64] =
                if self.high / self.low > 2000.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            return decades
                .flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)))
                .filter(|tick| (self.low..=self.high).contains(tick))
                .map(|tick| (tick, plain(tick, tick)))
                .collect();
        }
        // Ticks side by side need room for their numbers, ticks above each other less.
        let apart = if self.from < self.to { 75.0 } else { 45.0 };
        let rough =
            (self.high - self.low) / (f64::from((self.to - self.from).abs()) / apart).max(2.0);
        let unit = 10_f64.powf(rough.log10().floor());
        let step =
            [1.0, 2.0, 5.0, 10.0].into_iter().find(|s| s * unit >= rough).unwrap_or(10.0) * unit;
        let step = if self.is_count { step.max(1.0).round() } else { step };
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step + 1e-9).floor() as i64;
        (first..=last)
            .map(|count| count as f64 * step)
            .map(|tick| (tick, plain(tick, step)))
            .collect()
    }
}

/// A tick with the decimals that its step needs.
fn plain(value: f64, step: f64) -> String {
    // A short form, so that neighbours on a logarithmic axis have room.
    if value >= 1e6 && step >= 1e5 {
        let millions = (value / 1e5).round() / 10.0;
        return if millions.fract() == 0.0 {
            format!("{} M", text::grouped(millions as i64))
        } else {
            format!("{millions:.1} M")
        };
    }
    if step >= 1.0 {
        return text::grouped(value.round() as i64);
    }
    let decimals = (-step.log10() - 1e-9).ceil().clamp(0.0, 9.0) as usize;
    format!("{:.decimals$}", if value.abs() < step / 2.0 { 0.0 } else { value })
}

fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    if low <= high { (low, high) } else { (0.0, 1.0) }
}

/// Grid, ticks and name of the axis at the foot.
pub(super) fn x_axis(
    area: &Area<'_>,
    x: &Scale,
    [top, foot]: [i32; 2],
    name: &str,
) -> Result<(), ReportError> {
    let mut taken = i32::MIN;
    for (tick, words) in x.ticks() {
        let at = x.at(tick);
        line(area, vec![(at, top), (at, foot)], GRID)?;
        let half = width(area, &words)? / 2;
        if at - half > taken {
            write(area, &words, (at, foot + 14), Anchor::Middle, FAINT)?;
            taken = at + half + 8;
        }
    }
    line(area, vec![(x.from, foot), (x.to, foot)], LIGHT)?;
    let name = fit(area, name, WIDTH as i32 - 20)?;
    let half = width(area, &name)? / 2;
    let middle = i32::midpoint(x.from, x.to).clamp(half + 8, WIDTH as i32 - half - 8);
    write(area, &name, (middle, foot + 34), Anchor::Middle, INK)
}

/// Grid and ticks of the axis on the left; its name stands above it.
pub(super) fn y_axis(
    area: &Area<'_>,
    y: &Scale,
    [left, right]: [i32; 2],
    name: &str,
) -> Result<(), ReportError> {
    for (tick, words) in y.ticks() {
        let at = y.at(tick);
        line(area, vec![(left, at), (right, at)], GRID)?;
        write(area, &words, (left - 6, at), Anchor::Right, FAINT)?;
    }
    line(area, vec![(left, y.from), (left, y.to)], LIGHT)?;
    write(area, &fit(area, name, right - 20)?, (12, y.to.min(y.from) - 14), Anchor::Left, INK)
}

/// Heights near the wanted ones, at least `gap` apart and between `top` and `foot`, in order.
pub(super) fn spread(wanted: &[i32], gap: i32, [top, foot]: [i32; 2]) -> Vec<i32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&at| (wanted[at], at));
    let mut placed = wanted.to_vec();
    let mut next = top;
    for &at in &order {
        placed[at] = wanted[at].max(next);
        next = placed[at] + gap;
    }
    let mut limit = foot;
    for &at in order.iter().rev() {
        placed[at] = placed[at].min(limit);
        limit = placed[at] - gap;
    }
    placed
}

/// A box that something already fills: left, top, right, foot.
pub(super) type Taken = [i32; 4];

/// Where a label of this width reads best beside a point: the nearest place that is free.
pub(super) fn place(point: (i32, i32), width: i32, bounds: Taken, taken: &[Taken]) -> (i32, i32) {
    const HALF: i32 = 8;
    let (x, y) = point;
    let mut best = (i64::MAX, (x + 9, y));
    for (ring, distance) in [0, 16, 32, 48, 64, 80, 96, 112].into_iter().enumerate() {
        for (left, middle) in [
            (x + 9, y - distance),
            (x - 9 - width, y - distance),
            (x + 9, y + distance),
            (x - 9 - width, y + distance),
            (x - width / 2, y - 15 - distance),
            (x - width / 2, y + 15 + distance),
            (x + 36, y - distance),
            (x + 36, y + distance),
            (x - 36 - width, y - distance),
            (x - 36 - width, y + distance),
        ] {
            let label = [left, middle - HALF, left + width, middle + HALF];
            let outside = label[0] < bounds[0]
                || label[2] > bounds[2]
                || label[1] < bounds[1]
                || label[3] > bounds[3];
            let covered: i64 = taken.iter().map(|other| overlap(label, *other)).sum();
            // Far to the side is worse than one ring further up or down.
            let aside = i64::from((left - x).abs().min((left + width - x).abs()) > 20);
            let cost =
                covered * 100 + 4 * ring as i64 + 5 * aside + if outside { 1_000_000 } else { 0 };
            if cost < best.0 {
                best = (cost, (left, middle));
            }
        }
    }
    best.1
}

fn overlap(a: Taken, b: Taken) -> i64 {
    let across = (a[2].min(b[2]) - a[0].max(b[0])).max(0);
    let down = (a[3].min(b[3]) - a[1].max(b[1])).max(0);
    i64::from(across) * i64::from(down)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let ticks =
            |scale: Scale| -> Vec<String> { scale.ticks().into_iter().map(|t| t.1).collect() };
        assert_eq!(ticks(Scale::fixed(-0.1, 0.3, [0, 300])), ["-0.1", "0.0", "0.1", "0.2", "0.3"]);
        assert_eq!(
            ticks(Scale::positive([9.0, 900.0].into_iter(), [0, 300])).first().unwrap(),
            "10"
        );
        assert_eq!(ticks(Scale::fixed(1.0, 3.0, [0, 600]).counting()), ["1", "2", "3"]);
        assert_eq!(ticks(Scale::fixed(0.0, 12_000.0, [0, 300])).last().unwrap(), "10,000");
        assert_eq!(ticks(Scale::fixed(0.0, 3e6, [0, 300])), ["0", "1 M", "2 M", "3 M"]);
    }

    #[test]
    fn spread_labels_keep_their_distance_and_stay_inside() {
        assert_eq!(spread(&[50, 50, 10], 14, [0, 60]), [46, 60, 10]);
    }

    #[test]
    fn a_label_avoids_what_is_there() {
        let free = place((50, 50), 20, [0, 0, 200, 200], &[]);
        assert_eq!(free, (59, 50));
        assert_ne!(place((50, 50), 20, [0, 0, 200, 200], &[[55, 40, 90, 60]]), free);
    }

    #[test]
    fn nothing_to_draw_gives_an_axis_and_no_panic() {
        let scale = Scale::linear(std::iter::empty(), [0, 100]);
        assert!(!scale.ticks().is_empty());
        assert!(!Scale::linear([f64::NAN, 2.0].into_iter(), [100, 0]).ticks().is_empty());
    }
}
