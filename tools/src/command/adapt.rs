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
    let before = Held::by(context, &args.name, args.vcpu)?;
    let reservation = wanted(args, before.reservation)?;
    let mut promises = vec![before.with(reservation)];
    let request = match &args.from {
        None => Request::Adapt {
            vcpu: args.vcpu,
            reservation,
        },
        Some(from) => {
            let giver = Held::by(context, from, args.from_vcpu)?;
            let gained = gained(args, before.reservation, reservation)?;
            let kept = kept(from, giver.reservation, gained)?;
            promises.push(giver.with(kept));
            Request::Transfer(Transfer {
                vcpu: args.vcpu,
                before: before.reservation,
                reservation,
                from: from.clone(),
                from_socket: socket_path(&context.run_dir, from),
                from_vcpu: args.from_vcpu,
                from_before: giver.reservation,
                from_reservation: kept,
            })
        }
    };
    if !args.force {
        super::host::admits(context, &promises)?;
    }
    let Reply::Adapted { vcpu, .. } =
        ask(context, &args.name, request).map_err(|e| Failure::from(e).refused())?
    else {
        return Err(Failure::new(format!(
            "{} gave an answer to another question",
            args.name
        )));
    };
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
struct Held {
    granted: Granted,
    reservation: Reservation,
}

impl Held {
    fn by(context: &Context, name: &str, vcpu: usize) -> Result<Self, Failure> {
        let status = status_of(context, name)?;
        let found = status.vcpus.get(vcpu).ok_or_else(|| {
            let last = status.vcpus.len().saturating_sub(1);
            Failure::new(format!("{name} has no vCPU {vcpu}; it has 0 to {last}"))
        })?;
        let granted = found.granted.clone();
        let reservation = granted.request.reservation.ok_or_else(|| {
            Failure::new(format!(
                "vCPU {vcpu} of {name} has no reservation (backend `{}`)",
                granted.request.backend
            ))
        })?;
        Ok(Self {
            granted,
            reservation,
        })
    }

    /// The same grant with another reservation.
    fn with(&self, reservation: Reservation) -> Granted {
        let mut granted = self.granted.clone();
        granted.request.reservation = Some(reservation);
        granted
    }
}
