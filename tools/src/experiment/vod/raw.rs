//! What machines are told of `vod`.

use std::time::Duration;

use serde_json::{Value, json};

use super::course::Figures;
use super::need::PAPER;
use super::quality::Held;
use super::report::{BOUND, LOSS, WITHIN};
use super::run::Ran;
use super::{Adaptation, Mode, Results};
use crate::report::stats::{Distribution, Quantile};

/// All of the results.
pub fn raw(results: &Results) -> Value {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let times = |times: &[Duration]| {
        let times = Distribution::new(times.to_vec());
        json!({
            "count": times.count(),
            "mean_ms": times.mean().map(ms),
            "median_ms": times.quantile(Quantile::MEDIAN).map(ms),
            "max_ms": times.max().map(ms),
        })
    };
    let scenario = |ran: &Ran| {
        let of = |figures: &Figures| {
            json!({
                "figures": figures,
                "loss": figures.loss(),
                "share_within": figures.share_within(),
            })
        };
        let [before, after, adapted] = ran.figures();
        json!({
            "mode": ran.mode.key(),
            "key": ran.adaptation.key(),
            "four_streams": of(&before),
            "five_streams": of(&after),
            "five_streams_adapted": of(&adapted),
            "need_ms": ms(ran.need),
            "adaptations": ran.adapted.iter().map(|one| json!({
                "of": format!("{:?}", one.held).to_lowercase(),
                "at_ms": ms(one.at),
                "took_ms": ms(one.took),
            })).collect::<Vec<_>>(),
            "wire_bits_per_second": [ran.wire.0, ran.wire.1],
            "cpu_adapted_after_ms": ran.adapted_after(Held::Cpu).map(|after| after * 1e3),
            "network_adapted_after_ms": ran.adapted_after(Held::Link).map(|after| after * 1e3),
            "events": ran.events.iter().map(|(at, event)| json!({ "at_ms": ms(*at), "event": event })).collect::<Vec<_>>(),
        })
    };
    let costs = |mode| results.of(mode, Adaptation::Both).map(|ran| &ran.costs);
    let (vtms, guests) = (costs(Mode::Vtms), costs(Mode::Guests));
    json!({
        "experiment": "vod",
        "cpu": results.cpu,
        "promise": results.promise,
        "need": {
            "picture": results.need.size.to_string(),
            "frame_ms": ms(results.need.frame),
            "share": results.need.share(),
            "paper_frame_ms": ms(PAPER),
        },
        "gold_ms": [ms(results.need.budgets().0), ms(results.need.budgets().1)],
        "scenarios": results.ran.iter().map(scenario).collect::<Vec<_>>(),
        "adaptation_cost": {
            "local": vtms.map(|costs| times(&costs.local)),
            "local_guests": guests.map(|costs| times(&costs.local)),
            "remote": vtms.map(|costs| times(&costs.remote)),
        },
        "not_run": results.not_run,
        "more_packets_than_with_neither": results.gain(),
        "targets": { "loss": LOSS, "deviation_ms": ms(BOUND), "share_within": WITHIN },
    })
}
