//! Plots as SVG: bars or lines over a few labels, readable on light and on dark ground.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

/// How a chart shows its figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A group of bars for each label.
    Bars,
    /// A line for each series. Labels are spaced evenly, whatever they say.
    Lines,
}

/// A plot.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// Of the figures; the axis begins at zero.
    pub(crate) unit: String,
    pub(crate) shape: Shape,
    pub(crate) labels: Vec<String>,
    /// A name and a figure for each label, or none where there is none.
    pub(crate) series: Vec<(String, Vec<Option<f64>>)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 400.0;
/// The plot's corners, inside title, legend and labels.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 845.0;
const TOP: f64 = 75.0;
const BOTTOM: f64 = 360.0;

/// Told apart by those who do not see all colours, too (after Okabe and Ito), and dark enough for white and light enough for black.
const COLOURS: [&str; 7] = ["#888888", "#0082c8", "#009e73", "#cc79a7", "#e05a00", "#b08a00", "#7a68d8"];

impl Chart {
    /// Writes `FOLDER/NAME.svg`.
    ///
    /// # Errors
    /// The folder cannot be made, or the file not be written.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let file = folder.join(name).with_extension("svg");
        fs::write(&file, self.draw())?;
        println!("drawn: {}", file.display());
        Ok(())
    }

    fn draw(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <style>text{{fill:#222}}.rule{{stroke:#ccc}}@media(prefers-color-scheme:dark){{text{{fill:#ddd}}.rule{{stroke:#444}}}}</style>\n"
        );
        text(&mut out, LEFT, 24.0, "start", &self.title, " font-size=\"16\"");
        let step = self.step();
        let figures = self.series.iter().flat_map(|(_, figures)| figures).flatten();
        let steps = (figures.copied().fold(0.0, f64::max) / step).ceil().max(1.0);
        let y = |figure: f64| BOTTOM - (BOTTOM - TOP) * figure / (steps * step);
        for index in 0..=steps as usize {
            let figure = step * index as f64;
            let (at, digits) = (y(figure), if step < 1.0 { 1 } else { 0 });
            let _ = writeln!(out, "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
            text(&mut out, LEFT - 8.0, at + 4.0, "end", &format!("{figure:.digits$}"), "");
        }
        text(&mut out, LEFT - 8.0, TOP - 12.0, "end", &self.unit, "");
        let group = (RIGHT - LEFT) / self.labels.len().max(1) as f64;
        for (index, label) in self.labels.iter().enumerate() {
            text(&mut out, LEFT + group * (index as f64 + 0.5), BOTTOM + 20.0, "middle", label, "");
        }
        let mut legend = LEFT;
        for (index, (name, figures)) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let _ = writeln!(out, "<rect x=\"{legend:.0}\" y=\"38\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
            text(&mut out, legend + 17.0, 48.0, "start", name, "");
            legend += 40.0 + 7.0 * name.chars().count() as f64;
            let mut points = String::new();
            for (place, figure) in figures.iter().enumerate().filter_map(|(place, figure)| Some((place, (*figure)?))) {
                let top = y(figure);
                match self.shape {
                    Shape::Bars => {
                        let wide = group * 0.84 / self.series.len() as f64;
                        let x = LEFT + group * (place as f64 + 0.08) + wide * index as f64;
                        let (wide, high) = (wide - 2.0, BOTTOM - top);
                        let _ = writeln!(
                            out,
                            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{wide:.1}\" height=\"{high:.1}\" fill=\"{colour}\"/>"
                        );
                        let digits = if figure < 100.0 { 1 } else { 0 };
                        let told = if figure < 10_000.0 {
                            format!("{figure:.digits$}")
                        } else {
                            format!("{:.0}k", figure / 1000.0)
                        };
                        text(&mut out, x + wide / 2.0, top - 4.0, "middle", &told, " font-size=\"9\"");
                    }
                    Shape::Lines => {
                        let x = LEFT + group * (place as f64 + 0.5);
                        let _ = write!(points, "{x:.1},{top:.1} ");
                        let _ = writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{top:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
                    }
                }
            }
            if !points.is_empty() {
                let _ = writeln!(
                    out,
                    "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
                );
            }
        }
        out + "</svg>\n"
    }

    /// What is between two lines of the axis: a round number, and at most seven times in it.
    fn step(&self) -> f64 {
        let most =
            self.series.iter().flat_map(|(_, figures)| figures).flatten().copied().fold(f64::MIN_POSITIVE, f64::max);
        let power = 10_f64.powf((most / 7.0).log10().floor());
        [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| step * 7.0 >= most).unwrap_or(most)
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str, more: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{words}</text>");
}
