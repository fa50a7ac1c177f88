//! `adapt`: changes what a running guest is promised.

use std::time::Duration;

use sched::reservation::Reservation;
use vmm::control::{Reply, Request, Transfer, socket_path};
use vmm::guest::{GuestStatus, VcpuStatus};

use super::Context;
use super::control::{ask, status_of, vcpu_text};
use crate::cli::AdaptArgs;
use crate::failure::Failure;

/// Changes a reservation, with budget from another guest if that is asked for.
pub fn adapt(context: &Context, args: &AdaptArgs) -> Result<u8, Failure> {
    if args.runtime.or(args.period).is_none() {
        return Err(Failure::new(
            "nothing to change: give --runtime, --period, or both",
        ));
    }
    let before = reservation_of(&status_of(context, &args.name)?, args.vcpu)?;
    let runtime = args
        .runtime
        .map_or(before.runtime(), |span| span.duration());
    let period = args.period.map_or(before.period(), |span| span.duration());
    let reservation = Reservation::new(runtime, period)?;
    let request = match &args.from {
        None => Request::Adapt {
            vcpu: args.vcpu,
            reservation,
        },
        Some(from) => Request::Transfer(transfer(context, args, from, before, reservation)?),
    };
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

/// What the giving guest keeps: its runtime less what the other one gets more, at its own period.
fn transfer(
    context: &Context,
    args: &AdaptArgs,
    from: &str,
    before: Reservation,
    reservation: Reservation,
) -> Result<Transfer, Failure> {
    let from_before = reservation_of(&status_of(context, from)?, args.from_vcpu)?;
    let gained = reservation.utilisation() - before.utilisation();
    if gained <= 0.0 {
        return Err(Failure::new(format!(
            "{} would get no more than the {before} it has; leave --from away to give budget back",
            args.name
        )));
    }
    let given = Duration::from_secs_f64(gained * from_before.period().as_secs_f64());
    let kept = from_before
        .runtime()
        .checked_sub(given)
        .filter(|kept| !kept.is_zero())
        .ok_or_else(|| {
            Failure::new(format!(
                "{from} has {from_before}; it cannot give {given:?} of it in every period"
            ))
            .refused()
        })?;
    Ok(Transfer {
        vcpu: args.vcpu,
        reservation,
        from: from.to_owned(),
        from_socket: socket_path(&context.run_dir, from),
        from_vcpu: args.from_vcpu,
        from_before,
        from_reservation: Reservation::new(kept, from_before.period())?,
    })
}

fn reservation_of(status: &GuestStatus, vcpu: usize) -> Result<Reservation, Failure> {
    let found = status.vcpus.get(vcpu).ok_or_else(|| {
        let last = status.vcpus.len().saturating_sub(1);
        Failure::new(format!(
            "{} has no vCPU {vcpu}; it has 0 to {last}",
            status.name
        ))
    })?;
    found.granted.request.reservation.ok_or_else(|| {
        Failure::new(format!(
            "vCPU {vcpu} of {} has no reservation (backend `{}`)",
            status.name, found.granted.request.backend
        ))
    })
}
