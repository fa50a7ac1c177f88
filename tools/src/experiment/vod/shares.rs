//! INTERIM shares by tc.
use std::process::Command;
use std::time::{Duration, Instant};
use sched::reservation::Reservation;
use units::BitRate;
use super::network::Network;
use super::quality::{Pair, link_rate, link_time};
use crate::experiment::ExperimentError;

pub const CAPACITY: BitRate = BitRate::new(10_000_000);
pub struct Shares { core: String, link: Pair }
fn pair(gold: u64, best_effort: u64) -> Pair {
    let time = |rate| link_time(BitRate::new(rate), CAPACITY).unwrap_or_else(|e| panic!("{e}"));
    Pair { gold: time(gold), best_effort: time(best_effort) }
}
pub fn first() -> Pair { pair(5_000_000, 5_000_000) }
pub fn greatest() -> Duration { pair(6_000_000, 4_000_000).gold.runtime() }
fn tc(ns: &str, line: &str) {
    let ok = Command::new("ip").args(["netns", "exec", ns, "tc"]).args(line.split_whitespace()).status();
    assert!(ok.is_ok_and(|s| s.success()), "{line}");
}
impl Shares {
    pub fn reserve(network: &Network) -> Result<Self, ExperimentError> {
        let core = network.core.name().to_owned();
        let _ = Command::new("ip").args(["netns", "exec", &core, "tc", "qdisc", "del", "dev", "east", "root"]).stderr(std::process::Stdio::null()).status();
        tc(&core, "qdisc add dev east root handle 1: htb default 30");
        tc(&core, "class replace dev east parent 1: classid 1:1 htb rate 10mbit ceil 10mbit burst 3k cburst 3k");
        let mut s = Self { core: core.clone(), link: first() };
        s.adapt(first())?;
        tc(&core, "qdisc replace dev east parent 1:10 bfifo limit 140000");
        tc(&core, "qdisc replace dev east parent 1:20 bfifo limit 140000");
        tc(&core, "filter replace dev east parent 1: protocol ip prio 1 handle 800::1 u32 match ip dst 10.78.4.2/32 classid 1:10");
        tc(&core, "filter replace dev east parent 1: protocol ip prio 1 handle 800::2 u32 match ip dst 10.78.4.3/32 classid 1:20");
        Ok(s)
    }
    pub fn link(&self) -> Pair { self.link }
    pub fn adapt(&mut self, link: Pair) -> Result<Duration, ExperimentError> {
        let begin = Instant::now();
        let rate = |r: Reservation| link_rate(r, CAPACITY).bits_per_second();
        tc(&self.core, &format!("class replace dev east parent 1:1 classid 1:10 htb rate {} ceil 10mbit prio 0 burst 3k cburst 3k", rate(link.gold)));
        tc(&self.core, &format!("class replace dev east parent 1:1 classid 1:20 htb rate {} ceil 10mbit prio 1 burst 3k cburst 3k", rate(link.best_effort)));
        self.link = link;
        Ok(begin.elapsed())
    }
    pub fn gold_bytes(&mut self) -> Option<u64> {
        let out = Command::new("ip").args(["netns", "exec", &self.core, "tc", "-s", "class", "show", "dev", "east"]).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let at = text.find("class htb 1:10")?;
        text[at..].split("Sent ").nth(1)?.split(' ').next()?.parse().ok()
    }
}
