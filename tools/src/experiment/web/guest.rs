//! The guest that serves: its bridge, its share of the network, and its process.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use net::Network;
use net::plan::NetworkPlan;

use super::http::{self, Wait};
use super::right_answer;
use crate::experiment::ExperimentError;
use crate::experiment::guest::{Share, path, records};
use crate::experiment::interrupt;
use crate::experiment::part::owner;
use crate::experiment::process::Part;
use crate::experiment::stage::Stage;

/// The network of the experiment's namespace.
const PLAN: &str =
    "[bridge]\nname = \"web0\"\ncapacity = \"10Gbit/s\"\naddress = \"10.77.0.1/24\"\n";
/// The guest's address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const PORT: u16 = 80;
/// It ends by itself should nobody end it.
const DURATION: Duration = Duration::from_secs(3600);
/// How long it may take until it answers: it paints its image first, with what CPU time it has.
const PATIENCE: Duration = Duration::from_secs(60);

/// A guest whose web service is reached. Dropping it ends it, and then its network.
pub struct WebGuest {
    // Ends before its bridge does.
    part: Part,
    _bridge: Bridge,
}

/// The bridge of the calling thread's namespace.
struct Bridge(std::path::PathBuf);

impl Bridge {
    fn new(stage: &Stage) -> Result<Self, ExperimentError> {
        let plan = NetworkPlan::parse(PLAN)?;
        Network::apply(&stage.folder, &plan)?;
        Ok(Self(stage.folder.clone()))
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Err(error) = Network::clear(&self.0) {
            // It goes with its namespace anyway.
            eprintln!("warning: the experiment's bridge stays until its namespace goes: {error}");
        }
    }
}

impl WebGuest {
    /// Starts it, and waits until it answers a request.
    pub fn start(stage: &Stage, share: Share) -> Result<Self, ExperimentError> {
        let bridge = Bridge::new(stage)?;
        let spec = stage.folder.join("web.toml");
        fs::write(&spec, text(stage, share))
            .map_err(ExperimentError::io(format!("write {}", spec.display())))?;
        let mut arguments = stage.arguments("guest");
        arguments.extend([path(&spec), "--records".to_owned(), path(&records(stage))]);
        arguments.extend(owner());
        let part = Part::spawn("the guest", &stage.folder, &arguments)?;
        let mut guest = Self {
            part,
            _bridge: bridge,
        };
        guest.until_it_answers()?;
        Ok(guest)
    }

    /// Where it listens.
    pub fn server(&self) -> SocketAddr {
        SocketAddr::from((ADDRESS, PORT))
    }

    fn until_it_answers(&mut self) -> Result<(), ExperimentError> {
        let begin = Instant::now();
        loop {
            interrupt::check()?;
            if let Some(error) = self.part.ended() {
                return Err(error);
            }
            let wait = Wait {
                patience: Duration::from_secs(2),
                is_over: &|| interrupt::check().is_err(),
            };
            match http::get(self.server(), "/", wait) {
                Ok(answer) if String::from_utf8_lossy(&answer.body).contains(&right_answer()) => {
                    return Ok(());
                }
                Ok(answer) if begin.elapsed() > PATIENCE => {
                    return Err(super::ClientError::Wrong {
                        server: self.server(),
                        path: "/".to_owned(),
                        status: answer.status,
                        length: answer.body.len(),
                    }
                    .into());
                }
                Err(error) if begin.elapsed() > PATIENCE => {
                    return Err(super::ClientError::from(error).into());
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// The specification, as a user would write it.
fn text(stage: &Stage, share: Share) -> String {
    let network = "[network]\nassured = \"1Gbit/s\"\nceil = \"10Gbit/s\"\n";
    let command = format!(
        "sched=rm duration={}s net={ADDRESS}/24 http={PORT}",
        DURATION.as_secs()
    );
    let device = match share.reservation {
        Some(_) => String::new(),
        // Where the guest has no promise its device has none either.
        None => format!("backend = \"{}\"\n", share.backend),
    };
    let cpu = stage.cpu_table(&share, &[]);
    format!(
        "name = \"web-{}\"\n\n[guest]\nmemory = \"40MiB\"\ncommand_line = \"{command}\"\n\n{cpu}\n{network}{device}cpu = {}\n",
        std::process::id(),
        stage.cpu
    )
}
