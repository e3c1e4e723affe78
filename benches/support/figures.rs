//! What was measured of one thing, round by round, and how a table writes it.

use std::fmt;

/// One figure per round. The same round of two candidates was measured within a few seconds, so that noise that lasts longer
/// than that is in both and leaves their ratio alone: ratios are taken within a round, and the median of those is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The ratios to another's figures, round by round.
    pub(crate) fn over(&self, other: &Figures) -> Figures {
        Figures(self.0.iter().zip(&other.0).map(|(this, other)| this / other).collect())
    }

    /// What is added to another's figures, round by round.
    #[allow(dead_code, reason = "not every benchmark adds")]
    pub(crate) fn less(&self, other: &Figures) -> Figures {
        Figures(self.0.iter().zip(&other.0).map(|(this, other)| this - other).collect())
    }

    /// As a ratio is told; that of a thing to itself is 1.
    #[allow(dead_code, reason = "not every benchmark tells them so")]
    pub(crate) fn ratio(&self, to_itself: bool) -> String {
        if to_itself { "1".to_owned() } else { format!("{self:.2}") }
    }

    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.get(sorted.len().saturating_sub(1) / 2), sorted.get(sorted.len() / 2));
        low.zip(high).map_or(f64::NAN, |(low, high)| (low + high) / 2.0)
    }
}

/// `median (min–max)`, in the formatter's precision.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        write!(f, "{:.digits$} ({least:.digits$}–{most:.digits$})", self.median())
    }
}
