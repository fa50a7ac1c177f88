//! Reports of experiments: figures, tables, data files and their rendering on paper and on the terminal.
//!
//! A report is data first ([`Report`]) and rendered by [`Report::write`]. Nothing here measures, decides or knows an
//! experiment.

use serde::{Deserialize, Serialize};

pub mod agreement_plot;
pub mod axis;
pub mod curve_plot;
pub mod demand_plot;
pub mod deviation_plot;
pub mod dirty_plot;
mod distribution_key;
pub mod distribution_plot;
pub mod edge_plot;
pub mod flags;
pub mod folder;
pub mod follow_plot;
mod html;
pub mod jobs_csv;
pub mod order_plot;
pub mod rate_plot;
pub mod stats;
pub mod stream_plot;
pub mod svg;
pub mod table;
pub mod terminal;
pub mod timeline_plot;

use jobs_csv::JobRow;
use svg::Drawing;
use table::Table;

/// How a property of the host bears on real-time behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostVerdict {
    /// As it should be.
    Ok,
    /// Promises hold, figures may be worse than the method allows.
    Warn,
    /// Promises may not hold.
    Bad,
}

/// One line of the host check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCheck {
    /// What was looked at: "preemption model".
    pub name: String,
    /// What was found.
    pub value: String,
    /// What it means.
    pub verdict: HostVerdict,
}

/// A figure of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The file's stem: lower-case letters, digits and hyphens.
    pub name: String,
    /// What the reader should see in it.
    pub caption: String,
    /// The drawing.
    pub drawing: Drawing,
}

impl Figure {
    /// A figure; characters of `name` that do not belong into a file name become hyphens.
    pub fn new(name: &str, caption: &str, drawing: Drawing) -> Self {
        let keep = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        Self {
            name: name.chars().map(keep).collect(),
            caption: caption.to_owned(),
            drawing,
        }
    }
}

/// A section: prose, then tables, then figures.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Section {
    /// Its heading.
    pub heading: String,
    /// Paragraphs.
    pub prose: Vec<String>,
    /// Its tables.
    pub tables: Vec<Table>,
    /// Its figures.
    pub figures: Vec<Figure>,
}

/// Everything a report says.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The headline.
    pub title: String,
    /// What was done and what came out, in a few sentences.
    pub summary: String,
    /// The command that repeats it.
    pub command_line: String,
    /// What the host was like in this run.
    pub host: Vec<HostCheck>,
    /// The body.
    pub sections: Vec<Section>,
    /// Every job, for `jobs.csv`; the file is left out when there are none.
    pub jobs: Vec<JobRow>,
    /// The experiment's own results, stored in `result.json` as they are.
    pub raw: serde_json::Value,
}
