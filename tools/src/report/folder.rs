//! A report's folder: `report.html`, `result.json`, `jobs.csv`, `figures/*.svg`, and what an experiment adds.
//!
//! `result.json` is written first and marks the folder as a report; `report.html` is removed before anything changes
//! and put back last. Every file appears under its name only when it is complete. So a folder with a `report.html` is
//! whole, whatever interrupted an earlier run, and a folder that is something else is left alone.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::jobs_csv::write_jobs;
use super::{HostCheck, Report, html};

/// What a `result.json` of ours says it is.
pub const RESULT_KIND: &str = "chronovisor-report";
/// The version of its layout.
pub const RESULT_VERSION: u32 = 1;

const RESULT: &str = "result.json";
const PAGE: &str = "report.html";
const JOBS: &str = "jobs.csv";
const FIGURES: &str = "figures";
const PARTIAL: &str = ".partial";

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The folder holds something else.
    #[error("{} holds files but no report of ours; choose an empty or new folder", path.display())]
    NotAReport {
        /// The folder.
        path: PathBuf,
    },
    /// Two figures would be one file.
    #[error("two figures are called '{name}'; give each its own name")]
    DuplicateFigure {
        /// The name.
        name: String,
    },
    /// A file could not be written, read or removed.
    #[error("cannot {action} {}; check that the folder is writable and the disk not full", path.display())]
    Io {
        /// What failed.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The content of `result.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    /// [`RESULT_KIND`].
    pub kind: String,
    /// [`RESULT_VERSION`].
    pub version: u32,
    /// The report's title.
    pub title: String,
    /// The command that repeats it.
    pub command_line: String,
    /// What the host was like.
    pub host: Vec<HostCheck>,
    /// Stems of the files in `figures/`.
    pub figures: Vec<String>,
    /// The experiment's own results.
    pub result: serde_json::Value,
}

impl Report {
    /// Writes the report into `folder`, which is created if needed, with further `files` of these names and texts, and
    /// returns the path of its page.
    ///
    /// An earlier report in the folder is replaced; other files in it stay. A folder that holds files but no report
    /// is refused.
    pub fn write(&self, folder: &Path, files: &[(&str, &str)]) -> Result<PathBuf, ReportError> {
        let result = self.result_file()?;
        let earlier = earlier_report(folder)?;
        let figures = folder.join(FIGURES);
        fs::create_dir_all(&figures).map_err(failed("create", &figures))?;
        remove_if_present(&folder.join(PAGE))?;
        put(&folder.join(RESULT), |out| {
            Ok(serde_json::to_writer_pretty(out, &result)?)
        })?;
        for stale in earlier
            .iter()
            .filter(|name| is_file_stem(name) && !result.figures.contains(name))
        {
            remove_if_present(&figures.join(format!("{stale}.svg")))?;
        }
        for figure in self.sections.iter().flat_map(|s| &s.figures) {
            let svg = figure.drawing.standalone();
            put(&figures.join(format!("{}.svg", figure.name)), |out| {
                out.write_all(svg.as_bytes())
            })?;
        }
        self.write_jobs_file(&folder.join(JOBS))?;
        for (name, text) in files {
            put(&folder.join(name), |out| out.write_all(text.as_bytes()))?;
        }
        let page = html::page(self);
        put(&folder.join(PAGE), |out| out.write_all(page.as_bytes()))?;
        Ok(folder.join(PAGE))
    }

    /// What `result.json` will hold.
    fn result_file(&self) -> Result<ResultFile, ReportError> {
        let mut names = BTreeSet::new();
        for figure in self.sections.iter().flat_map(|s| &s.figures) {
            if !names.insert(figure.name.clone()) {
                return Err(ReportError::DuplicateFigure {
                    name: figure.name.clone(),
                });
            }
        }
        Ok(ResultFile {
            kind: RESULT_KIND.to_owned(),
            version: RESULT_VERSION,
            title: self.title.clone(),
            command_line: self.command_line.clone(),
            host: self.host.clone(),
            figures: names.into_iter().collect(),
            result: self.raw.clone(),
        })
    }

    fn write_jobs_file(&self, path: &Path) -> Result<(), ReportError> {
        if self.jobs.is_empty() {
            return remove_if_present(path);
        }
        put(path, |out| write_jobs(out, &self.jobs))
    }
}

/// The figures of the report in `folder`; none if the folder is empty or missing.
fn earlier_report(folder: &Path) -> Result<Vec<String>, ReportError> {
    let marker = folder.join(RESULT);
    match fs::read(&marker) {
        Ok(bytes) => serde_json::from_slice::<ResultFile>(&bytes)
            .ok()
            .filter(|result| result.kind == RESULT_KIND)
            .map(|result| result.figures)
            .ok_or_else(|| ReportError::NotAReport {
                path: folder.to_owned(),
            }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => match holds_nothing(folder)? {
            true => Ok(Vec::new()),
            false => Err(ReportError::NotAReport {
                path: folder.to_owned(),
            }),
        },
        Err(error) => Err(failed("read", &marker)(error)),
    }
}

/// Whether `folder` is missing, empty, or holds only what a run interrupted at its very start leaves.
fn holds_nothing(folder: &Path) -> Result<bool, ReportError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries.map_err(failed("read", folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(failed("read", folder))?;
        let is_own_start = entry.file_name() == *format!("{RESULT}{PARTIAL}");
        // remove_dir would fail on a folder with files; asking is enough here.
        let is_empty_figures = entry.file_name() == *FIGURES
            && fs::read_dir(entry.path()).is_ok_and(|mut d| d.next().is_none());
        if !is_own_start && !is_empty_figures {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Writes a file beside its place and moves it there when it is complete and on the disk.
fn put(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), ReportError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(PARTIAL);
    let partial = PathBuf::from(partial);
    let fill = || {
        let mut out = BufWriter::new(File::create(&partial)?);
        write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(&partial, path)
    };
    fill().map_err(failed("write", path))
}

fn remove_if_present(path: &Path) -> Result<(), ReportError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn is_file_stem(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReportError {
    let path = path.to_owned();
    move |source| ReportError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::jobs_csv::JobRow;
    use super::super::svg::Drawing;
    use super::super::{Figure, HostVerdict, Section};
    use super::*;

    fn report(figures: &[&str]) -> Report {
        let figure = |name: &&str| Figure::new(name, "<caption>", Drawing::new(name, 10.0, 10.0));
        Report {
            title: "Edge <script>alert(1)</script>".to_owned(),
            summary: "a & b".to_owned(),
            command_line: "chronovisor experiment edge --out \"x\"".to_owned(),
            host: vec![HostCheck {
                name: "tick".to_owned(),
                value: "4 ms".to_owned(),
                verdict: HostVerdict::Warn,
            }],
            sections: vec![Section {
                figures: figures.iter().map(figure).collect(),
                ..Section::default()
            }],
            jobs: vec![JobRow::default()],
            raw: serde_json::json!({"edge_ms": 26.5, "names": ["a", "b"]}),
        }
    }

    #[test]
    fn a_report_has_its_files_and_nothing_half_written() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("new/report");
        let page = report(&["one", "Two!"]).write(&folder, &[]).unwrap();
        assert_eq!(page, folder.join("report.html"));
        for file in [
            "report.html",
            "result.json",
            "jobs.csv",
            "figures/one.svg",
            "figures/two-.svg",
        ] {
            assert!(folder.join(file).is_file(), "{file}");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);
    }

    #[test]
    fn result_json_reads_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let written = report(&["one"]);
        written.write(dir.path(), &[]).unwrap();
        let read: ResultFile =
            serde_json::from_slice(&fs::read(dir.path().join(RESULT)).unwrap()).unwrap();
        assert_eq!(read, written.result_file().unwrap());
        assert_eq!(read.result, written.raw);
    }

    #[test]
    fn the_page_is_self_contained_and_escapes_what_it_is_given() {
        let dir = tempfile::tempdir().unwrap();
        report(&["one"]).write(dir.path(), &[]).unwrap();
        let page = fs::read_to_string(dir.path().join(PAGE)).unwrap();
        assert!(
            !page.contains("<script")
                && page.contains("Edge &lt;script&gt;")
                && page.contains("a &amp; b")
        );
        let urls = page.matches("http").count();
        assert_eq!(
            urls,
            page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count()
        );
        assert!(!page.contains("src=") && !page.contains("@import") && !page.contains("url("));
    }

    #[test]
    fn a_second_report_replaces_the_first_and_spares_other_files() {
        let dir = tempfile::tempdir().unwrap();
        report(&["old", "same"]).write(dir.path(), &[]).unwrap();
        fs::write(dir.path().join("notes.txt"), "mine").unwrap();
        let mut second = report(&["same", "new"]);
        second.jobs.clear();
        second.write(dir.path(), &[]).unwrap();
        let has = |file: &str| dir.path().join(file).exists();
        assert!(has("notes.txt") && has("figures/same.svg") && has("figures/new.svg"));
        assert!(!has("figures/old.svg") && !has("jobs.csv"));
    }

    #[test]
    fn a_folder_that_is_no_report_is_refused_and_left_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("report.html"), "thesis").unwrap();
        assert!(matches!(
            report(&[]).write(dir.path(), &[]),
            Err(ReportError::NotAReport { .. })
        ));
        fs::write(dir.path().join(RESULT), r#"{"kind":"other"}"#).unwrap();
        assert!(matches!(
            report(&[]).write(dir.path(), &[]),
            Err(ReportError::NotAReport { .. })
        ));
        assert_eq!(
            fs::read_to_string(dir.path().join("report.html")).unwrap(),
            "thesis"
        );
    }

    #[test]
    fn a_run_interrupted_after_the_marker_leaves_no_page_and_can_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        report(&["one"]).write(dir.path(), &[]).unwrap();
        // A folder in the place of a figure stops the second run halfway.
        fs::create_dir_all(dir.path().join("figures/two.svg/x")).unwrap();
        assert!(matches!(
            report(&["one", "two"]).write(dir.path(), &[]),
            Err(ReportError::Io { .. })
        ));
        assert!(!dir.path().join(PAGE).exists());
        fs::remove_dir_all(dir.path().join("figures/two.svg")).unwrap();
        report(&["one", "two"]).write(dir.path(), &[]).unwrap();
    }

    #[test]
    fn two_figures_of_one_name_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let result = report(&["a b", "a-b"]).write(dir.path(), &[]);
        assert!(matches!(result, Err(ReportError::DuplicateFigure { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
