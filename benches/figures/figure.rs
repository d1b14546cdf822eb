//! A figure: what was measured of us and of them, and how large it may be.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("cannot {attempted}: {reason}")]
pub struct Failure {
    attempted: String,
    reason: String,
}

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Gives an error its place.
pub fn failed<E: std::fmt::Display>(attempted: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let attempted = attempted.into();
    move |reason| Failure { attempted, reason: reason.to_string() }
}

#[derive(Debug, Clone, Copy)]
pub enum Unit {
    Milliseconds,
    Kibibytes,
}

/// How large a figure may be.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// So many times what the peer needs.
    Ratio(f64),
    /// So much, in the unit of the figure, whatever the peer needs.
    Value(f64),
}

#[derive(Debug)]
pub struct Figure {
    pub name: &'static str,
    pub what: String,
    pub against: String,
    pub unit: Unit,
    pub ours: f64,
    pub theirs: f64,
    pub limit: Limit,
    /// How often each was measured.
    pub samples: (usize, usize),
}

impl Figure {
    pub fn ratio(&self) -> f64 {
        self.ours / self.theirs
    }

    pub fn is_held(&self) -> bool {
        match self.limit {
            Limit::Ratio(limit) => self.ratio() <= limit,
            Limit::Value(limit) => self.ours <= limit,
        }
    }

    fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Milliseconds => format!("{value:.2} ms"),
            Unit::Kibibytes => format!("{value:.0} KiB"),
        }
    }
}

pub fn as_table(figures: &[Figure]) -> String {
    let mut rows = vec![["what", "ours", "against", "theirs", "ratio", "at most", ""].map(str::to_owned)];
    rows.extend(figures.iter().map(|figure| {
        let limit = match figure.limit {
            Limit::Ratio(limit) => format!("{limit:.2} x"),
            Limit::Value(limit) => figure.show(limit),
        };
        [
            figure.what.clone(),
            figure.show(figure.ours),
            figure.against.clone(),
            figure.show(figure.theirs),
            format!("{:.3}", figure.ratio()),
            limit,
            if figure.is_held() { "held" } else { "MISSED" }.to_owned(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let mut table = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(table, "{cell:<width$}  ", width = width(column));
        }
        table.truncate(table.trim_end().len());
        table.push('\n');
    }
    table
}

pub fn as_json(figures: &[Figure]) -> Value {
    figures
        .iter()
        .map(|figure| {
            let unit = match figure.unit {
                Unit::Milliseconds => "ms",
                Unit::Kibibytes => "KiB",
            };
            let (kind, limit) = match figure.limit {
                Limit::Ratio(limit) => ("ratioMax", limit),
                Limit::Value(limit) => ("oursMax", limit),
            };
            json!({
                "name": figure.name, "what": figure.what, "against": figure.against, "unit": unit, "ours": figure.ours,
                "theirs": figure.theirs, "ratio": figure.ratio(), kind: limit, "held": figure.is_held(),
                "samplesOurs": figure.samples.0, "samplesTheirs": figure.samples.1,
            })
        })
        .collect()
}

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The value that so many of a hundred are below or at. At least one value must be there.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

pub fn median(values: &[f64]) -> f64 {
    percentile(values, 50)
}
