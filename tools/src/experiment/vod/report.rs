//! The report of `vod`.

use std::time::Duration;

use super::course::Figures;
use super::ffmpeg::WIRE_RATE;
use super::need::{FIRST_STREAMS, PAPER, STREAMS};
use super::quality::Held;
use super::run::{LATE, Ran};
use super::vtms::{FRAME, SLOT};
use super::{Adaptation, Mode, Results, raw};
use crate::cli::ExperimentArgs;
use crate::report::stats::{Distribution, Quantile};
use crate::report::stream_plot::{FrameDot, StreamPlot, Stretch};
use crate::report::table::{Cell, Column, Table};
use crate::report::{Figure, HostCheck, Report, Section};

/// The target with both adapted: loss.
pub const LOSS: f64 = 0.015;
/// The target with both adapted: how far the spacing of frames is off.
pub const BOUND: Duration = Duration::from_millis(20);
/// Of frames whose spacing is within [`BOUND`]: while an adaptation is on its way some are not.
pub const WITHIN: f64 = 0.99;
/// How much time the stretches of a figure have.
const STRETCH: Duration = Duration::from_secs(1);
/// After the fifth stream began: by then everything is adapted.
const ADAPTED_AFTER: Duration = Duration::from_secs(3);
/// Whatever is compared with the paper is compared across this.
const GAP: &str = "The paper's figures were taken on a Pentium 4 at 1.2 GHz and a network of 2001's machines; they stand beside ours \
                   as they are, and no ratio of the two says anything of either program.";

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    Report {
        title: "Video on demand: a fifth stream, and what is adapted for it".to_owned(),
        summary: summary(results),
        command_line: args.command_line("vod"),
        host,
        sections: vec![
            scenarios(results),
            adaptations(results),
            over_time(results),
            method(results),
        ],
        jobs: Vec::new(),
        raw: raw::raw(results),
    }
}

impl Ran {
    /// All streams together, with four, with five, and when everything was adapted.
    pub fn figures(&self) -> [Figures; 3] {
        let adapted = self.after.start + ADAPTED_AFTER..self.after.end;
        [self.before.clone(), self.after.clone(), adapted].map(|window| {
            let streams = self.courses.iter();
            let each: Vec<_> = streams
                .map(|course| course.figures(&window, BOUND))
                .collect();
            Figures::sum(&each)
        })
    }

    /// When something was first adapted, in seconds from the beginning of the fifth stream; below zero if that was before.
    pub fn adapted_after(&self, held: Held) -> Option<f64> {
        let first = self.adapted.iter().find(|one| one.held == held)?;
        Some(first.at.as_secs_f64() - self.after.start.as_secs_f64())
    }
}

impl Results {
    /// One scenario, if it was run.
    pub fn of(&self, mode: Mode, adaptation: Adaptation) -> Option<&Ran> {
        let mut ran = self.ran.iter();
        ran.find(|ran| (ran.mode, ran.adaptation) == (mode, adaptation))
    }

    fn with(&self, mode: Mode) -> impl Iterator<Item = &Ran> {
        self.ran.iter().filter(move |ran| ran.mode == mode)
    }

    /// How many more packets arrive with both adapted than with neither.
    pub fn gain(&self) -> Option<f64> {
        let received =
            |adaptation| Some(self.of(Mode::Vtms, adaptation)?.figures()[1].received as f64);
        Some(received(Adaptation::Both)? / received(Adaptation::Neither)? - 1.0)
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn told(ran: &Ran) -> String {
    let [_, after, _] = ran.figures();
    let range = after
        .deviation_ms
        .map_or("no frame".to_owned(), |(least, most)| {
            format!("{least:.0} to {most:.0} ms")
        });
    format!(
        "{}, {}: loss {}, spacing of frames off by {range}, {} packets received",
        ran.mode.name(),
        ran.adaptation.name(),
        percent(after.loss()),
        after.received
    )
}

fn summary(results: &Results) -> String {
    let need = results.need;
    let ran: Vec<_> = results.ran.iter().map(told).collect();
    let gain = results.gain().map_or(String::new(), |gain| {
        format!(
            " With VTMs and both adapted {} more packets arrive than with neither.",
            percent(gain)
        )
    });
    format!(
        "{FIRST_STREAMS} streams of ffmpeg on CPU {} and a link of 10 Mbit/s, then a fifth, beside transcoding and a flood. A \
         stream needs {:.2} ms of CPU time for each frame ({}; {:.2} ms and 14.19 % in the paper) and {} kbit/s. With five \
         streams, by who sends and what is adapted: {}.{gain} The VTMs rest on {}.",
        results.cpu,
        need.frame.as_secs_f64() * 1e3,
        percent(need.share()),
        PAPER.as_secs_f64() * 1e3,
        WIRE_RATE / 1_000,
        ran.join("; "),
        results.promise
    )
}

fn papers(adaptation: Adaptation) -> &'static str {
    match adaptation {
        Adaptation::Neither => "loss, jitter; 6032 packets",
        Adaptation::Network => "no loss, unstable jitter",
        Adaptation::Cpu => "better jitter",
        Adaptation::Both => "±20 ms, 1.5 %, 8329 packets",
    }
}

fn scenarios(results: &Results) -> Section {
    let columns = [
        ("adapted", ""),
        ("streams", ""),
        ("need", "ms"),
        ("sent", ""),
        ("received", ""),
        ("lost", "%"),
        ("least", "ms"),
        ("greatest", "ms"),
        ("within ±20 ms", "%"),
        ("jitter, max", "ms"),
        ("on the wire", "Mbit/s"),
        ("target", ""),
    ];
    let mut columns: Vec<_> = columns
        .map(|(title, unit)| Column::new(title, unit))
        .to_vec();
    columns.push(Column::of_paper("paper", ""));
    let not_run = results.not_run.iter();
    let not_run = not_run.map(|(what, why)| format!("Not run: {what}: {why}."));
    let mut prose = vec![
        format!(
            "Need: CPU time that a stream took for a frame, while there were four; what else the machine does changes it. Least, \
             greatest and within: by how much the time between the arrivals of the last packets of two frames that follow one \
             another differs from what their timestamps say; the paper gives a range, and not what was measured for it. \
             Jitter: the interarrival jitter of RFC 3550, its greatest value. With five streams everything counts from when the \
             fifth begins, what is lost until something is adapted too; \"adapted\" leaves out the first {} s.",
            ADAPTED_AFTER.as_secs()
        ),
        format!(
            "Gold has 1.25 Mbit/s of the link for each stream, the paper's 5 for four, which is 3 % more than they take. For five the \
             paper gives it 6, of which {STREAMS} streams of {} kbit/s lose 1.2 % whatever else is done.",
            WIRE_RATE / 1_000
        ),
    ];
    prose.extend(not_run);
    Section {
        heading: "The four scenarios".to_owned(),
        prose,
        tables: [Mode::Vtms, Mode::Guests]
            .map(|mode| Table {
                caption: format!("All streams together: {}.", mode.name()),
                columns: columns.clone(),
                rows: results.with(mode).flat_map(rows).collect(),
            })
            .to_vec(),
        figures: Vec::new(),
    }
}

fn rows(ran: &Ran) -> Vec<Vec<Cell>> {
    let names = ["4", "5", "5, adapted"];
    let wires = [ran.wire.0, ran.wire.1, None];
    let figures = ran.figures();
    let row = |((name, figures), wire): ((&str, Figures), Option<f64>)| {
        let count = |count: usize| Cell::number(count as f64, 0);
        let (least, most) = figures.deviation_ms.unzip();
        let ms = |value: Option<f64>| value.map_or(Cell::Missing, |ms| Cell::number(ms, 1));
        let is_target = ran.adaptation == Adaptation::Both && name == "5";
        let is_whole = name == "5";
        let met = figures.loss() <= LOSS && figures.share_within() >= WITHIN;
        vec![
            Cell::text(ran.adaptation.name()),
            Cell::text(name),
            match name {
                "4" => Cell::millis(ran.need, 2),
                _ => Cell::Missing,
            },
            count(figures.sent),
            count(figures.received),
            Cell::number(figures.loss() * 100.0, 2),
            ms(least),
            ms(most),
            Cell::number(figures.share_within() * 100.0, 1),
            Cell::number(figures.jitter_ms, 1),
            wire.map_or(Cell::Missing, |rate| Cell::number(rate / 1e6, 3)),
            match is_target {
                true => Cell::judged(met, "loss ≤ 1.5 %, 99 % within ±20 ms"),
                false => Cell::Missing,
            },
            match is_whole {
                true => Cell::text(papers(ran.adaptation)),
                false => Cell::Missing,
            },
        ]
    };
    names.into_iter().zip(figures).zip(wires).map(row).collect()
}

fn adaptations(results: &Results) -> Section {
    let seconds = |time: Option<f64>| time.map_or(Cell::Missing, |t| Cell::number(t, 2));
    let row = |ran: &Ran| {
        vec![
            Cell::text(ran.mode.name()),
            Cell::text(ran.adaptation.name()),
            seconds(ran.adapted_after(Held::Cpu)),
            seconds(ran.adapted_after(Held::Link)),
        ]
    };
    let columns = [
        ("senders", ""),
        ("adapted", ""),
        ("CPU", "s"),
        ("network", "s"),
    ];
    let detection = Table {
        caption:
            "From the beginning of the fifth stream until a rule acted on what its monitor saw; below zero where four streams were too much already."
                .to_owned(),
        columns: columns
            .map(|(title, unit)| Column::new(title, unit))
            .to_vec(),
        rows: results.ran.iter().map(row).collect(),
    };
    let costs = |mode| {
        results
            .of(mode, Adaptation::Both)
            .map(|ran| ran.costs.clone())
    };
    let (vtms, guests) = (costs(Mode::Vtms), costs(Mode::Guests));
    let (vtms, guests) = (vtms.unwrap_or_default(), guests.unwrap_or_default());
    let cost = |name: &str, times: &[Duration], paper: Option<f64>| {
        let times = Distribution::new(times.to_vec());
        vec![
            Cell::text(name),
            Cell::number(times.count() as f64, 0),
            Cell::millis(times.mean(), 3),
            Cell::millis(times.quantile(Quantile::MEDIAN), 3),
            Cell::millis(times.max(), 3),
            paper.map_or(Cell::Missing, |ms| Cell::number(ms, 3)),
        ]
    };
    let columns = [
        ("adaptation", ""),
        ("changes", ""),
        ("mean", "ms"),
        ("median", "ms"),
        ("max", "ms"),
    ];
    let mut columns: Vec<_> = columns
        .map(|(title, unit)| Column::new(title, unit))
        .to_vec();
    columns.push(Column::of_paper("paper", "ms"));
    let costs = Table {
        caption: "What a change costs while five streams run: local, of CPU shares of both VTMs or, through its control socket, of both guests; remote, of both shares of the link on both core \
                  routers, from the call to the last answer."
            .to_owned(),
        columns,
        rows: vec![
            cost("CPU, local: VTMs", &vtms.local, Some(0.099)),
            cost("CPU, local: guests", &guests.local, None),
            cost("network, both remote routers", &vtms.remote, Some(49.79)),
        ],
    };
    Section {
        heading: "Adaptations".to_owned(),
        prose: vec![GAP.to_owned()],
        tables: vec![detection, costs],
        figures: Vec::new(),
    }
}

fn over_time(results: &Results) -> Section {
    Section {
        heading: "Over time".to_owned(),
        figures: results.ran.iter().map(figure).collect(),
        ..Section::default()
    }
}

fn figure(ran: &Ran) -> Figure {
    let window = ran.before.start..ran.after.end;
    let streams = ran.courses.iter().map(|course| {
        let dot = |frame: super::course::Frame| FrameDot {
            at: frame.at,
            deviation: frame.deviation * 1e3,
        };
        course.frames(&window).map(dot).collect()
    });
    let mut stretches: Vec<Stretch> = Vec::new();
    for course in &ran.courses {
        for (number, (sent, received)) in course.stretches(&window, STRETCH).into_iter().enumerate()
        {
            if stretches.len() <= number {
                let passed = u32::try_from(number).unwrap_or(u32::MAX);
                stretches.push(Stretch {
                    at: window.start + STRETCH * passed,
                    sent: 0,
                    received: 0,
                });
            }
            stretches[number].sent += sent;
            stretches[number].received += received;
        }
    }
    let mut marks = vec![(ran.after.start, "fifth stream".to_owned())];
    marks.extend(ran.adapted.iter().map(|one| {
        let what = match one.held {
            Held::Cpu => "CPU adapted",
            Held::Link => "network adapted",
        };
        (one.at, what.to_owned())
    }));
    let plot = StreamPlot {
        title: format!("{}, adapting {}", ran.mode.name(), ran.adaptation.name()),
        bound: BOUND.as_secs_f64() * 1e3,
        streams: streams.collect(),
        stretches: (STRETCH, stretches),
        marks,
        window,
    };
    plot.figure(
        &format!("streams-{}-{}", ran.mode.key(), ran.adaptation.key()),
        "Above: every frame of every stream, by how much the time since the one before differs from nominal; what is further \
         off than the axis goes is drawn at its edge. Below: packets lost, and sent and received, of all streams.",
    )
}

fn method(results: &Results) -> Section {
    let need = results.need;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let (first, second) = need.budgets();
    let is_papers = (first, second) == (Duration::from_millis(24), Duration::from_millis(32));
    let prose = vec![
        format!(
            "A stream is an ffmpeg that draws pictures of {} (testsrc2), encodes them (x264, one thread) and sends them as they \
             are due, 25 in a second, as MPEG-TS over RTP at a constant rate of the multiplexer. The size of the pictures was \
             searched for until a stream beside three others in a VTM needed about the paper's CPU time, and was corrected between \
             scenarios: it needed {:.2} ms of every {} ms, so U = {} and C = U T / 100. In slots of {} ms gold gets {} ms for \
             {FIRST_STREAMS} streams and {} ms for {STREAMS}{}.",
            need.size,
            ms(need.frame),
            ms(FRAME),
            percent(need.share()),
            ms(SLOT),
            ms(first),
            ms(second),
            if is_papers { ", as in the paper" } else { "; in the paper 24 and 32 ms" },
        ),
        "Each stream is a job of the VTM gold as soon as it streams (what starting ffmpeg takes is not gold's) and finishes its \
         frame before another one has the CPU (SCHED_FIFO); one that the end of gold's slots interrupts goes on first. Two endless \
         transcoding ffmpeg are jobs of best effort. Source, edge, core and client are network namespaces; the edges mark \
         packets by where they go, the core has a queue for each mark on a link of 10 Mbit/s, and a flood keeps best effort's \
         queue full."
            .to_owned(),
        format!(
            "Nothing is adapted by the clock. Where the CPU is adapted, a rule counts frames that left the source more than {} ms \
             after their time: at the tenth within 1 s gold gets 8 ms of every 40 ms from best effort. Where the network is, a \
             rule counts gaps in the sequence numbers at the client: at the fifth within 0.5 s gold gets 1.25 Mbit/s from best \
             effort: what the first {FIRST_STREAMS} streams have each.",
            ms(LATE)
        ),
        "Packets are counted, and their times taken, by the kernel at both ends: loss is what was sent and did not arrive. The \
         rate on the wire is what gold's class at the bottleneck has counted, link-layer headers included."
            .to_owned(),
        format!(
            "With guests gold is a VM whose tasks execute for {:.2} ms before they send a frame, in a reservation of 24, then 32 \
             ms of every 40 ms, and best effort one that is busy, with 17, then 1 ms of every 80 ms; gold's packets leave by a \
             virtio device, a bridge and the same routers. CPU time moves as `chronovisor adapt --from` moves it.",
            ms(PAPER)
        ),
        format!("VTMs and reservations rest on {}.", results.promise),
    ];
    Section {
        heading: "What was measured".to_owned(),
        prose,
        ..Section::default()
    }
}
