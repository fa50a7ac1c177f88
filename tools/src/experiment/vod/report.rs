//! INTERIM
use serde_json::json;
use super::{Results};
use super::course::Figures;
use crate::cli::ExperimentArgs;
use crate::report::{HostCheck, Report};
use std::time::Duration;
pub fn report(results: &Results, _args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    let b = Duration::from_millis(20);
    for ran in &results.ran {
        eprintln!("== {} before {:?} after {:?} wire {:?}", ran.adaptation.name(), ran.before, ran.after, ran.wire);
        for (name, w) in [("before", ran.before.clone()), ("after", ran.after.clone()), ("late", ran.after.start + Duration::from_secs(4)..ran.after.end)] {
            let all: Vec<Figures> = ran.courses.iter().map(|c| c.figures(&w, b)).collect();
            let s = Figures::sum(&all);
            eprintln!("{name}: sent {} rec {} loss {:.2}% dev {:?} within {:.2}% jitter {:.2} each {:?}", s.sent, s.received, s.loss()*100.0, s.deviation_ms, s.share_within()*100.0, s.jitter_ms, all.iter().map(|f| f.deviation_ms.map(|(a,b)| (a as i64, b as i64))).collect::<Vec<_>>());
        }
        for a in &ran.adapted { eprintln!("{a:?}"); }
        for e in ran.events.iter().take(30) { eprintln!("{e:?}"); }
    }
    eprintln!("need {:?}", results.need);
    Report { title: "Video on demand".into(), summary: String::new(), command_line: String::new(), host, sections: vec![], jobs: vec![], raw: json!({}) }
}
