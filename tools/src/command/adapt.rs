//! `adapt`: changes what a running guest is promised.

use std::time::Duration;

use sched::request::Granted;
use sched::reservation::Reservation;
use vmm::control::{Reply, Request, Transfer, socket_path};
use vmm::guest::VcpuStatus;
use vmm::units::Span;

use super::Context;
use super::control::{ask, status_of, vcpu_text};
use crate::cli::AdaptArgs;
use crate::failure::Failure;

/// Changes a reservation, with budget from another guest if that is asked for.
pub fn adapt(context: &Context, args: &AdaptArgs) -> Result<u8, Failure> {
    if args.runtime.or(args.period).or(args.deadline).is_none() {
        return Err(Failure::new(
            "nothing to change: give --runtime, --period or --deadline",
        ));
    }
    let own = Held::by(context, &args.name, args.vcpu)?;
    let after = wanted(args, own.reservation)?;
    let from = match &args.from {
        None => None,
        Some(from) => {
            let held = Held::by(context, from, args.from_vcpu)?;
            let gained = gained(args, own.reservation, after)?;
            let after = kept(from, held.reservation, gained)?;
            Some(Wanted { held, after })
        }
    };
    let to = Wanted { held: own, after };
    let vcpu = carry_out(context, &to, from.as_ref(), args.force)?;
    context.print(&*vcpu, |vcpu: &VcpuStatus| {
        format!("{}: adapted\n{}", args.name, vcpu_text(vcpu))
    })?;
    Ok(0)
}

/// What is asked for. A deadline at the end of the period stays there.
fn wanted(args: &AdaptArgs, before: Reservation) -> Result<Reservation, Failure> {
    let given = |span: Option<Span>, kept: Duration| span.map_or(kept, Span::duration);
    let runtime = given(args.runtime, before.runtime());
    let period = given(args.period, before.period());
    let kept = if before.is_constrained() {
        before.deadline()
    } else {
        period
    };
    let deadline = given(args.deadline, kept);
    Ok(Reservation::new(runtime, period)?.with_deadline(deadline)?)
}

/// What a vCPU has and is to have.
pub struct Wanted {
    /// What it has.
    pub held: Held,
    /// What it is to have.
    pub after: Reservation,
}

/// Has a reservation changed, together with that of another guest that gives something up for it.
pub fn carry_out(
    context: &Context,
    to: &Wanted,
    from: Option<&Wanted>,
    force: bool,
) -> Result<Box<VcpuStatus>, Failure> {
    let Held { name, vcpu, .. } = &to.held;
    let request = match from {
        None => Request::Adapt {
            vcpu: *vcpu,
            reservation: to.after,
        },
        Some(from) => Request::Transfer(Transfer {
            vcpu: *vcpu,
            before: to.held.reservation,
            reservation: to.after,
            from: from.held.name.clone(),
            from_socket: socket_path(&context.run_dir, &from.held.name),
            from_vcpu: from.held.vcpu,
            from_before: from.held.reservation,
            from_reservation: from.after,
        }),
    };
    if !force {
        let promises: Vec<_> = [Some(to), from]
            .into_iter()
            .flatten()
            .map(promise)
            .collect();
        super::host::admits(context, &promises)?;
    }
    match ask(context, name, request).map_err(|e| Failure::from(e).refused())? {
        Reply::Adapted { vcpu, .. } => Ok(vcpu),
        _ => Err(Failure::new(format!(
            "{name} gave an answer to another question"
        ))),
    }
}

/// The grant with what is wanted in it.
fn promise(wanted: &Wanted) -> Granted {
    let mut granted = wanted.held.granted.clone();
    granted.request.reservation = Some(wanted.after);
    granted
}

/// The share of a CPU that the guest gets more.
fn gained(args: &AdaptArgs, before: Reservation, after: Reservation) -> Result<f64, Failure> {
    let gained = after.utilisation() - before.utilisation();
    if gained <= 0.0 {
        return Err(Failure::new(format!(
            "{} would get no more than the {before} it has; leave --from away to give budget back",
            args.name
        )));
    }
    Ok(gained)
}

/// What the giving guest keeps: its runtime less the share that the other one gets more, at its own period.
fn kept(from: &str, before: Reservation, gained: f64) -> Result<Reservation, Failure> {
    let given = Duration::from_secs_f64(gained * before.period().as_secs_f64());
    let kept = before
        .runtime()
        .checked_sub(given)
        .filter(|kept| !kept.is_zero())
        .ok_or_else(|| {
            Failure::new(format!(
                "{from} has {before}; it cannot give {given:?} of it in every period"
            ))
            .refused()
        })?;
    Ok(before.with_runtime(kept)?)
}

/// What a vCPU was granted, with a reservation in it.
pub struct Held {
    name: String,
    vcpu: usize,
    granted: Granted,
    /// That reservation.
    pub reservation: Reservation,
}

impl Held {
    /// What this vCPU of the guest `name` has.
    pub fn by(context: &Context, name: &str, vcpu: usize) -> Result<Self, Failure> {
        let status = status_of(context, name)?;
        let found = status.vcpus.get(vcpu).ok_or_else(|| {
            let has = match status.vcpus.len() {
                0 | 1 => "only 0".to_owned(),
                count => format!("0 to {}", count - 1),
            };
            Failure::new(format!("{name} has no vCPU {vcpu}; it has {has}"))
        })?;
        let granted = found.granted.clone();
        let reservation = granted.request.reservation.ok_or_else(|| {
            Failure::new(format!(
                "vCPU {vcpu} of {name} has no reservation (backend `{}`)",
                granted.request.backend
            ))
        })?;
        Ok(Self {
            name: name.to_owned(),
            vcpu,
            granted,
            reservation,
        })
    }
}
