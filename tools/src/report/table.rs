//! Tables of results: what a cell holds, and how the numbers of a column are brought under one another.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Whether a target was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Reached.
    Met,
    /// Not reached.
    Missed,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number in the column's unit, shown with `decimals` digits after the point.
    Number {
        /// The number.
        value: f64,
        /// Digits after the point.
        decimals: usize,
    },
    /// A verdict on a target, and the target in words.
    Verdict {
        /// Whether it was reached.
        verdict: Verdict,
        /// The target: "≤ 1 ms".
        target: String,
    },
    /// Nothing was measured, or nothing was published.
    Missing,
}

impl Cell {
    /// A cell of words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A number with `decimals` digits after the point.
    pub fn number(value: f64, decimals: usize) -> Self {
        Self::Number { value, decimals }
    }

    /// A time in milliseconds, or [`Cell::Missing`].
    pub fn millis(value: impl Into<Option<Duration>>, decimals: usize) -> Self {
        value.into().map_or(Self::Missing, |time| {
            Self::number(time.as_secs_f64() * 1e3, decimals)
        })
    }

    /// A verdict on `target`.
    pub fn judged(is_met: bool, target: impl Into<String>) -> Self {
        let verdict = if is_met {
            Verdict::Met
        } else {
            Verdict::Missed
        };
        Self::Verdict {
            verdict,
            target: target.into(),
        }
    }

    /// The cell's text, not aligned.
    pub fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number { value, decimals } => {
                format!("{value:.decimals$}").replace('-', "\u{2212}")
            }
            Self::Verdict {
                verdict: Verdict::Met,
                target,
            } => format!("✓ {target}"),
            Self::Verdict {
                verdict: Verdict::Missed,
                target,
            } => format!("✗ {target}"),
            Self::Missing => "–".to_owned(),
        }
    }
}

/// Where a column's numbers come from; published ones are set apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Measured in this run, or given by it.
    Here,
    /// Published in the paper that is compared with.
    Paper,
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its head.
    pub title: String,
    /// The unit of its numbers; empty if they have none.
    pub unit: String,
    /// Where they come from.
    pub source: Source,
}

impl Column {
    /// A column measured here.
    pub fn new(title: &str, unit: &str) -> Self {
        Self {
            title: title.to_owned(),
            unit: unit.to_owned(),
            source: Source::Here,
        }
    }

    /// A column of published values.
    pub fn of_paper(title: &str, unit: &str) -> Self {
        Self {
            source: Source::Paper,
            ..Self::new(title, unit)
        }
    }

    /// Title and unit in one line.
    pub fn head(&self) -> String {
        match self.unit.as_str() {
            "" => self.title.clone(),
            unit => format!("{} ({unit})", self.title),
        }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// One sentence above it.
    pub caption: String,
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows; a short row is filled up with empty cells, and what exceeds the columns is not shown.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Whether a column holds numbers and is therefore set flush right.
    pub fn is_numeric(&self, column: usize) -> bool {
        let cells = || self.rows.iter().filter_map(|row| row.get(column));
        cells().any(|c| matches!(c, Cell::Number { .. }))
            && !cells().any(|c| matches!(c, Cell::Text(_) | Cell::Verdict { .. }))
    }

    /// The texts of a column. Numbers are padded at the end so that, set flush right in digits of one width, their
    /// decimal points stand under one another; `pads` are the characters as wide as a digit and as the point.
    pub fn column_texts(&self, column: usize, pads: (char, char)) -> Vec<String> {
        let cells: Vec<_> = self.rows.iter().map(|row| row.get(column)).collect();
        let decimals_of = |cell: &Option<&Cell>| match cell {
            Some(Cell::Number { decimals, .. }) => *decimals,
            _ => 0,
        };
        let most = cells.iter().map(decimals_of).max().unwrap_or(0);
        let padded = |cell: &Option<&Cell>| {
            let mut text = cell.map(Cell::shown).unwrap_or_default();
            if matches!(cell, Some(Cell::Number { .. })) {
                let own = decimals_of(cell);
                if own == 0 && most > 0 {
                    text.push(pads.1);
                }
                text.extend(std::iter::repeat_n(pads.0, most - own));
            }
            text
        };
        cells.iter().map(padded).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_points_stand_under_one_another() {
        let numbers = [(1.5, 1), (20.0, 0), (-3.25, 2)];
        let table = Table {
            caption: String::new(),
            columns: vec![Column::new("x", "ms")],
            rows: numbers
                .iter()
                .map(|(v, d)| vec![Cell::number(*v, *d)])
                .collect(),
        };
        assert!(table.is_numeric(0));
        let texts = table.column_texts(0, ('_', '_'));
        assert_eq!(texts, ["1.5_", "20___", "−3.25"]);
    }

    #[test]
    fn a_short_row_leaves_its_last_cells_empty() {
        let table = Table {
            caption: String::new(),
            columns: vec![Column::new("a", ""), Column::new("b", "")],
            rows: vec![vec![Cell::text("x")], vec![Cell::text("y"), Cell::Missing]],
        };
        assert_eq!(table.column_texts(1, (' ', ' ')), ["", "–"]);
    }
}
