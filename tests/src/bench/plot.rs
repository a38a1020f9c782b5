//! Rows as pictures: one SVG for each metric of each scenario, and one with all ratios.

use super::Row;
use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// Colours that people who see few colours can tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(230, 159, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
const WIDTH: u32 = 760;
/// Height of a bar and what is around it.
const STEP: u32 = 44;
const FONT: (&str, u32) = ("sans-serif", 16);

/// A bar: its label, its length, the ends of the line over it.
struct Bar {
    label: String,
    value: f64,
    spread: (f64, f64),
    colour: RGBColor,
}

/// Draws the rows into `directory`, which is made if there is none. Says which files it wrote.
pub fn plot(rows: &[Row], directory: &Path) -> Result<Vec<String>> {
    std::fs::create_dir_all(directory).with_context(|| format!("can't make {}", directory.display()))?;
    let mut pictures: BTreeMap<(&str, &str), Vec<&Row>> = BTreeMap::new();
    for row in rows {
        pictures.entry((&row.scenario, &row.metric)).or_default().push(row);
    }
    let mut names = Vec::new();
    for ((scenario, metric), rows) in &pictures {
        let bars = rows.iter().enumerate().map(|(place, row)| Bar {
            label: row.contender.clone(),
            value: row.median,
            spread: (row.min, row.max),
            colour: COLOURS[place % COLOURS.len()],
        });
        let title = format!("{scenario}: {metric} [{}]", rows[0].unit);
        let name = file_name(&format!("{scenario}-{metric}"));
        draw(&directory.join(&name), &title, &bars.collect::<Vec<_>>(), None)?;
        names.push(name);
    }
    let ratios: Vec<_> = rows.iter().filter_map(|row| ratio(row, rows)).collect();
    if !ratios.is_empty() {
        draw(
            &directory.join("ratios.svg"),
            "this stack over the kernel's Multipath TCP",
            &ratios,
            Some(1.0),
        )?;
        names.push("ratios.svg".into());
    }
    Ok(names)
}

/// The bar of what ours is of the kernel's, if both were measured.
fn ratio(row: &Row, rows: &[Row]) -> Option<Bar> {
    let kernel = rows.iter().find(|other| {
        other.contender == "kernel-mptcp" && other.scenario == row.scenario && other.metric == row.metric
    })?;
    (row.contender == "ours" && kernel.median > 0.0).then(|| Bar {
        label: format!("{} {}", row.scenario, row.metric),
        value: row.median / kernel.median,
        spread: (row.min / kernel.max.max(f64::MIN_POSITIVE), row.max / kernel.min.max(f64::MIN_POSITIVE)),
        colour: COLOURS[0],
    })
}

fn file_name(text: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(safe).collect();
    let words: Vec<_> = name.split('-').filter(|word| !word.is_empty()).collect();
    format!("{}.svg", words.join("-"))
}

/// Horizontal bars with the spread as a line, and a mark at `goal` if there is one.
fn draw(path: &Path, title: &str, bars: &[Bar], goal: Option<f64>) -> Result<()> {
    let failed = |error| anyhow!("can't draw {}: {error}", path.display());
    let height = STEP * bars.len() as u32 + 100;
    let most = bars.iter().map(|bar| bar.value.max(bar.spread.1)).fold(goal.unwrap_or(0.0), f64::max);
    let longest = bars.iter().map(|bar| bar.label.chars().count()).max().unwrap_or(0) as u32;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    let work = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(32)
            .y_label_area_size((longest * 9).clamp(60, 380))
            .build_cartesian_2d(0.0..(most * 1.12).max(f64::MIN_POSITIVE), 0.0..bars.len() as f64)?;
        chart.configure_mesh().disable_y_mesh().disable_y_axis().y_labels(0).label_style(FONT).draw()?;
        for (place, bar) in bars.iter().enumerate() {
            // The first at the top.
            let low = (bars.len() - 1 - place) as f64;
            let middle = low + 0.5;
            let area = [(0.0, low + 0.2), (bar.value, low + 0.8)];
            chart.draw_series(std::iter::once(Rectangle::new(area, bar.colour.filled())))?;
            let line = vec![(bar.spread.0, middle), (bar.spread.1, middle)];
            chart.draw_series(std::iter::once(PathElement::new(line, BLACK.stroke_width(2))))?;
            let style = TextStyle::from(FONT).pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Right,
                plotters::style::text_anchor::VPos::Center,
            ));
            let label = EmptyElement::at((0.0, middle)) + Text::new(bar.label.clone(), (-8, 0), style);
            chart.draw_series(std::iter::once(label))?;
            let value = EmptyElement::at((bar.value.max(bar.spread.1), middle))
                + Text::new(format!("{:.2}", bar.value), (6, -8), FONT);
            chart.draw_series(std::iter::once(value))?;
        }
        if let Some(goal) = goal {
            let line = vec![(goal, 0.0), (goal, bars.len() as f64)];
            chart.draw_series(std::iter::once(PathElement::new(line, RED.stroke_width(1))))?;
        }
        root.present()
    };
    work().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_gets_a_picture_and_the_ratios_one_of_their_own() {
        let rows = [
            Row::new("bulk", "ours", "goodput", "Gb/s", vec![10.0, 12.0, 11.0]),
            Row::new("bulk", "kernel-mptcp", "goodput", "Gb/s", vec![8.0]),
            Row::new("rr", "ours", "64 octets p99.9", "µs", vec![3.0]),
        ];
        let directory = std::env::temp_dir().join(format!("mptcp-plot-{}", std::process::id()));
        let names = plot(&rows, &directory).unwrap();
        assert_eq!(names, ["bulk-goodput.svg", "rr-64-octets-p99-9.svg", "ratios.svg"]);
        let picture = std::fs::read_to_string(directory.join("ratios.svg")).unwrap();
        assert!(picture.contains("1.38") && picture.contains("bulk goodput"), "{picture}");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
