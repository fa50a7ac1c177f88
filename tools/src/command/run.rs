//! `run` and `restore`: a guest in the foreground.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sched::framework::Factory;
use vmm::guest::{
    AdmittedVm, BuiltVm, Observer, Outcome, Reception, RunningVm, StartError, Vms, supervise,
};
use vmm::spec::{ImageSource, VmPlan};
use vmm::telemetry::Event;

use super::Context;
use super::plan::read_plan;
use crate::cli::{RunArgs, ShowArgs};
use crate::console::Console;
use crate::failure::Failure;

/// A user who waits for longer is told why.
const NOTICEABLE: Duration = Duration::from_millis(300);

/// Runs a guest from its specification until it is over.
pub fn run(context: &Context, args: &RunArgs) -> Result<u8, Failure> {
    let planned = read_plan(context, &args.spec)?;
    planned.tell();
    let plan = planned.plan;
    let admitted = admit_checked(context, plan.clone(), args.show.force)?;
    // A refused guest leaves the records of an earlier run alone.
    let show = Show::new(context, &args.show)?;
    let built = match &plan.image {
        ImageSource::BuiltIn => admitted.build(guest_images::RT_GUEST),
        ImageSource::File(path) => {
            let image = std::fs::read(path).map_err(|source| StartError::Image {
                path: path.clone(),
                source,
            })?;
            admitted.build(&image)
        }
    }?;
    watch(context, built, show)
}

/// Lets a saved guest go on.
pub fn restore(
    context: &Context,
    spec: &Path,
    folder: &Path,
    args: &ShowArgs,
) -> Result<u8, Failure> {
    let planned = read_plan(context, spec)?;
    let read = |name: &str| -> Result<(std::path::PathBuf, Vec<u8>), Failure> {
        let path = folder.join(name);
        let bytes = std::fs::read(&path)
            .map_err(|e| Failure::from(e).while_doing(&format!("{}", path.display())))?;
        Ok((path, bytes))
    };
    let (_, state) = read("state")?;
    let state = vmm::snapshot::decode(&state)?;
    let memory = folder.join("memory");
    let memory = File::open(&memory)
        .map_err(|e| Failure::from(e).while_doing(&format!("{}", memory.display())))?;
    planned.tell();
    let admitted = admit_checked(context, planned.plan, args.force)?;
    let show = Show::new(context, args)?;
    watch(context, admitted.restore(state, &memory)?, show)
}

fn admit_checked(context: &Context, plan: VmPlan, force: bool) -> Result<AdmittedVm, Failure> {
    let run_dir = &context.run_dir;
    let vm = Vms { run_dir }.make(plan).map_err(|error| match error {
        StartError::Refused(_) | StartError::NetworkThread(_) => Failure::from(error).refused(),
        StartError::Network(error) => super::net::failure(error),
        other => other.into(),
    })?;
    if !force {
        super::host::admits(context, vm.admitted().vcpus())?;
    }
    if let Some(wait) = vm.admitted().waits().filter(|wait| *wait > NOTICEABLE) {
        eprintln!(
            "note: {} starts in {:.1} s: its CPU time has just been given up by another guest, and is owed until then",
            vm.admitted().vm(),
            wait.as_secs_f64()
        );
    }
    Ok(vm)
}

fn watch(context: &Context, built: BuiltVm, mut show: Show) -> Result<u8, Failure> {
    let reception = Reception::open(&built, &context.run_dir)?;
    // The guest runs before its control plane does: its first output does not wait for that.
    let running = built.start()?;
    let outcome = supervise_here(running, reception, &mut show)?;
    tell(context, &outcome, show)
}

/// Says how a guest ended that was supervised here; the exit status.
pub(super) fn tell(context: &Context, outcome: &Outcome, show: Show) -> Result<u8, Failure> {
    // All of the guest's output comes before what is said about it.
    let shown = show.finish();
    if context.json {
        super::say(&serde_json::to_string_pretty(outcome)?)?;
    } else {
        eprintln!("{outcome}");
    }
    shown?;
    Ok(outcome.end.status())
}

/// Supervises a guest on this thread.
pub(super) fn supervise_here(
    running: RunningVm,
    reception: Reception,
    show: &mut Show,
) -> Result<Outcome, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(supervise(running, reception, show))?)
}

/// Shows a guest's output and keeps its records.
pub(super) struct Show {
    console: Console,
    records: Option<Records>,
}

/// Records that go to a file, until that fails.
struct Records {
    path: PathBuf,
    written: Result<BufWriter<File>, std::io::Error>,
}

impl Records {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path)
            .map_err(|e| Failure::from(e).while_doing(&path.display().to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            written: Ok(BufWriter::new(file)),
        })
    }

    fn write(&mut self, event: &Event) {
        let Ok(file) = &mut self.written else { return };
        let written = serde_json::to_writer(&mut *file, event)
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(b"\n"));
        if let Err(error) = written {
            // A full disk does not end the guest; it is told at the end.
            self.written = Err(error);
        }
    }

    fn finish(self) -> Result<(), Failure> {
        let doing = format!("writing the records to {}", self.path.display());
        self.written
            .and_then(|mut file| file.flush())
            .map_err(|e| Failure::from(e).while_doing(&doing))
    }
}

impl Show {
    pub(super) fn new(context: &Context, args: &ShowArgs) -> Result<Self, Failure> {
        let records = args.records.as_deref().map(Records::create);
        Ok(Self {
            // With `--json` standard output is for the outcome alone.
            console: Console::new(context.json),
            records: records.transpose()?,
        })
    }

    pub(super) fn finish(self) -> Result<(), Failure> {
        let lost = self.console.finish();
        if lost > 0 {
            eprintln!("warning: {lost} bytes of the guest's output were not taken by the reader");
        }
        self.records.map_or(Ok(()), Records::finish)
    }
}

impl Observer for Show {
    fn output(&mut self, bytes: &[u8]) {
        self.console.show(bytes);
    }

    fn idle(&mut self) {
        self.console.pass_on();
    }

    fn event(&mut self, event: &Event) {
        if let Some(records) = &mut self.records {
            records.write(event);
        }
    }
}
