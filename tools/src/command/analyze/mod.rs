//! `analyze`: whether tasks meet their deadlines in a reservation, or which reservation they need.

mod finding;
mod plot;
mod sheet;

use std::path::Path;

pub use finding::WitnessAnswer;

use super::Context;
use crate::cli::AnalyzeArgs;
use crate::failure::{Failure, REFUSED};
use crate::host_figures::HostFigures;
use crate::written;
use sheet::Sheet;

/// A commented file.
const EXAMPLE: &str = include_str!("example.toml");

/// Judges or designs; status 3 if deadlines are missed on the periodic resource model.
pub fn analyze(context: &Context, args: &AnalyzeArgs) -> Result<u8, Failure> {
    let Some(file) = &args.tasks else {
        super::say(EXAMPLE)?;
        return Ok(0);
    };
    let in_file = |failure: Failure| failure.while_doing(&file.display().to_string());
    let sheet: Sheet = written::read(file, |text| Ok(toml::from_str(text)?))?;
    let figures = HostFigures::kept(&context.run_dir);
    let analysis = sheet.analysis(figures.as_ref()).map_err(in_file)?;
    if let Some(path) = &args.svg {
        draw(&analysis, path)?;
    }
    context.print(&analysis.answer(), |_| analysis.text())?;
    Ok(if analysis.meets() { 0 } else { REFUSED })
}

fn draw(analysis: &finding::Analysis, path: &Path) -> Result<(), Failure> {
    let drawing = analysis.plot().map(|plot| plot.drawing().standalone());
    std::fs::write(path, drawing.unwrap_or_default())
        .map_err(|e| Failure::from(e).while_doing(&path.display().to_string()))
}
